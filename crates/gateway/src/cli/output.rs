//! How commands print: aligned tables for people, JSON and YAML for programs, colours on terminals only.

use anstream::println;
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use super::CliError;

pub(crate) const RED: &str = "\x1b[1;31m";
pub(crate) const GREEN: &str = "\x1b[32m";
pub(crate) const BOLD: &str = "\x1b[1m";
pub(crate) const DIM: &str = "\x1b[2m";
pub(crate) const PLAIN: &str = "\x1b[0m";

/// `-o`
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

impl OutputArgs {
    /// Prints `value`, as a program or as a person wants it.
    pub(crate) fn print<T: Serialize>(self, value: &T, for_people: impl FnOnce(&T)) -> Result<(), CliError> {
        match self.output {
            Format::Table => for_people(value),
            Format::Json => println!("{}", serde_json::to_string_pretty(value)?),
            Format::Yaml => {
                print!("{}", serde_yaml::to_string(value).map_err(|e| CliError::Other(e.into()))?)
            }
        }
        Ok(())
    }
}

/// `-o` of what lists things that have ids.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ListOutputArgs {
    /// How to print; `name` prints the ids alone, one a line, for other commands
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table, value_name = "FORMAT")]
    output: ListFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Table,
    Json,
    Yaml,
    Name,
}

impl ListOutputArgs {
    /// As [`OutputArgs::print`], with the ids of what is listed.
    pub(crate) fn print<'a, T: Serialize>(
        self,
        value: &T,
        ids: impl Iterator<Item = &'a str>,
        for_people: impl FnOnce(&T),
    ) -> Result<(), CliError> {
        let output = match self.output {
            ListFormat::Table => Format::Table,
            ListFormat::Json => Format::Json,
            ListFormat::Yaml => Format::Yaml,
            ListFormat::Name => {
                for id in ids {
                    println!("{id}");
                }
                return Ok(());
            }
        };
        OutputArgs { output }.print(value, for_people)
    }
}

/// Prints rows under a header, aligned, wrapped to the terminal.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for row in rows {
        table.add_row(row);
    }
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
}

/// Text without anything that could move a terminal's cursor: what is on record was written by strangers.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A word as a shell reads it back, so that what is printed can be copied whatever is in it.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_words_back() {
        assert_eq!(shell_word("/tmp/portcullis-demo-x1/ca.crt"), "/tmp/portcullis-demo-x1/ca.crt");
        assert_eq!(shell_word("/tmp/my demo"), "'/tmp/my demo'");
        assert_eq!(shell_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_word(""), "''");
    }
}
