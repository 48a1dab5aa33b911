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
