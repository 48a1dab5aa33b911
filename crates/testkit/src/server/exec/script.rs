//! A shell's command line, read: words, quotes, variables, and `;`, `&&`, `||` between commands. Nothing more; what is more
//! is refused by name, so that nobody takes a pipe that was dropped for one that was run.

/// When a command runs, given how the one before it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// `&&`
    Succeeded,
    /// `||`
    Failed,
}

/// One command: when, and its words. A word that was quoted in single quotes is taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) when: When,
    pub(super) words: Vec<String>,
}

/// Reads a line; `variable` gives the value of `$NAME`. An error says what is not supported, or not closed.
pub(super) fn parse(line: &str, variable: impl Fn(&str) -> String) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    let mut command = Command { when: When::Always, words: Vec::new() };
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    let mut finish = |command: &mut Command, when: When| {
        let next = Command { when, words: Vec::new() };
        let done = std::mem::replace(command, next);
        if !done.words.is_empty() {
            commands.push(done);
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("unterminated quoted string".into()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("unterminated quoted string".into()),
                        },
                        Some('$') => expand(word, &mut chars, &variable)?,
                        Some('`') => {
                            return Err("command substitution is not supported by this pretend shell".into());
                        }
                        Some(c) => word.push(c),
                        None => return Err("unterminated quoted string".into()),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '$' => expand(word.get_or_insert_default(), &mut chars, &variable)?,
            '#' if word.is_none() => break,
            ' ' | '\t' | '\r' => command.words.extend(word.take()),
            ';' | '\n' => {
                command.words.extend(word.take());
                finish(&mut command, When::Always);
            }
            '&' | '|' if chars.peek() == Some(&c) => {
                chars.next();
                command.words.extend(word.take());
                if command.words.is_empty() {
                    return Err(format!("syntax error: unexpected \"{c}{c}\""));
                }
                finish(&mut command, if c == '&' { When::Succeeded } else { When::Failed });
            }
            '|' => return Err("pipes are not supported by this pretend shell".into()),
            '&' => return Err("background jobs are not supported by this pretend shell".into()),
            '<' | '>' => return Err("redirections are not supported by this pretend shell".into()),
            '(' | ')' | '`' => return Err("subshells are not supported by this pretend shell".into()),
            c => word.get_or_insert_default().push(c),
        }
    }
    command.words.extend(word.take());
    finish(&mut command, When::Always);
    Ok(commands)
}

fn expand(
    word: &mut String,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    variable: &impl Fn(&str) -> String,
) -> Result<(), String> {
    let mut name = String::new();
    match chars.peek() {
        Some('(') => return Err("command substitution is not supported by this pretend shell".into()),
        Some('{') => {
            chars.next();
            loop {
                match chars.next() {
                    Some('}') => break,
                    Some(c) if c.is_ascii_alphanumeric() || c == '_' => name.push(c),
                    _ => return Err("bad substitution".into()),
                }
            }
        }
        Some('?' | '$') => name.extend(chars.next()),
        _ => {
            while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                name.push(c);
            }
        }
    }
    match name.is_empty() {
        true => word.push('$'),
        false => word.push_str(&variable(&name)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(line: &str, expected: &[(When, &[&str])]) {
        let read = parse(line, |name| format!("<{name}>")).unwrap();
        let expected: Vec<_> = expected
            .iter()
            .map(|(when, words)| Command {
                when: *when,
                words: words.iter().map(|word| (*word).to_owned()).collect(),
            })
            .collect();
        assert_eq!(read, expected, "{line}");
    }

    #[test]
    fn lines_are_read_as_a_shell_reads_them() {
        use When::*;
        check("echo  a\tb", &[(Always, &["echo", "a", "b"])]);
        check("echo 'a $b' \"c $D ${E} \\$f\" g\\ h", &[(Always, &["echo", "a $b", "c <D> <E> $f", "g h"])]);
        check(
            "a; b && c || d # e",
            &[(Always, &["a"]), (Always, &["b"]), (Succeeded, &["c"]), (Failed, &["d"])],
        );
        check("echo '' $? 5$", &[(Always, &["echo", "", "<?>", "5$"])]);
        check(" ; \n", &[]);
    }

    #[test]
    fn what_it_cannot_do_it_refuses() {
        for line in ["a | b", "a > b", "a < b", "a &", "$(a)", "`a`", "(a)", "'a", "\"a", "${a", "&& a"] {
            assert!(parse(line, |_| String::new()).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[a-z '\"\\\\$;&|(){}#<>?\n]{0,40}") {
            let _ = parse(&line, |_| String::new());
        }
    }
}
