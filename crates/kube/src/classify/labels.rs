//! Label selectors: whether the API server can parse one.
//!
//! Only that matters here: a list whose options cannot all be decoded is authorized without the name that its field
//! selector gives. The grammar is that of `k8s.io/apimachinery/pkg/labels`.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
}

/// Whether `selector` is one that the API server accepts.
pub(super) fn is_valid(selector: &str) -> bool {
    Parser { tokens: scan(selector), at: 0 }.selector().is_some()
}

fn is_symbol(c: char) -> bool {
    "=!(),><".contains(c)
}

/// A NUL ends the selector, as it does in the API server's scanner.
fn scan(selector: &str) -> Vec<Token<'_>> {
    let mut rest = selector.split('\0').next().unwrap_or_default();
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else { return tokens };
        let length = match is_symbol(first) {
            true if rest.starts_with("==") || rest.starts_with("!=") => 2,
            true => 1,
            false => rest
                .find(|c: char| is_symbol(c) || [' ', '\t', '\r', '\n'].contains(&c))
                .unwrap_or(rest.len()),
        };
        let (token, more) = rest.split_at(length);
        tokens.push(if is_symbol(first) { Token::Symbol(token) } else { Token::Word(token) });
        rest = more;
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn selector(&mut self) -> Option<()> {
        if self.peek().is_none() {
            return Some(());
        }
        loop {
            self.requirement()?;
            match self.next() {
                None => return Some(()),
                Some(Token::Symbol(",")) => {}
                Some(_) => return None,
            }
        }
    }

    fn requirement(&mut self) -> Option<()> {
        let negated = self.peek() == Some(Token::Symbol("!"));
        if negated {
            self.next();
        }
        is_key(self.word()?).then_some(())?;
        if negated || matches!(self.peek(), None | Some(Token::Symbol(","))) {
            return Some(());
        }
        match self.next()? {
            Token::Word("in" | "notin") => self.values(),
            Token::Symbol("=" | "==" | "!=") => is_value(self.exact_value()?).then_some(()),
            Token::Symbol(">" | "<") => {
                let value = self.exact_value()?;
                (is_value(value) && value.parse::<i64>().is_ok()).then_some(())
            }
            _ => None,
        }
    }

    fn exact_value(&mut self) -> Option<&'a str> {
        match self.peek() {
            None | Some(Token::Symbol(",")) => Some(""),
            Some(_) => self.word(),
        }
    }

    /// `(a, b)`; any of them may be empty.
    fn values(&mut self) -> Option<()> {
        (self.next()? == Token::Symbol("(")).then_some(())?;
        loop {
            match self.next()? {
                Token::Symbol(")") => return Some(()),
                Token::Symbol(",") => {}
                Token::Word(value) => {
                    is_value(value).then_some(())?;
                    matches!(self.peek(), Some(Token::Symbol("," | ")"))).then_some(())?;
                }
                Token::Symbol(_) => return None,
            }
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        match self.next()? {
            Token::Word(word) => Some(word),
            Token::Symbol(_) => None,
        }
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }
}

/// A qualified name: `app`, `example.com/app`.
fn is_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    !name.is_empty() && is_value(name) && prefix.is_none_or(is_subdomain)
}

fn is_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= 63
        && ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_subdomain(prefix: &str) -> bool {
    prefix.len() <= 253
        && prefix.split('.').all(|label| {
            let bytes = label.as_bytes();
            let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            bytes.first().is_some_and(alphanumeric)
                && bytes.last().is_some_and(alphanumeric)
                && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(valid: bool, selectors: &[&str]) {
        for selector in selectors {
            assert_eq!(is_valid(selector), valid, "{selector}");
        }
    }

    #[test]
    fn selectors() {
        check(
            true,
            &[
                "",
                "app",
                "!app",
                "app=web",
                "app==web",
                "app!=web",
                "app=",
                "app=,tier",
                "app in (a,b)",
                "app in ()",
                "app in (,)",
                "app in (a,,b,)",
                "app notin (a)",
                "a>1",
                "a<1",
                "example.com/app=web",
                "a = b , c != d",
                "in in (in)",
                "x in (notin)",
                "a\0=(",
            ],
        );
        check(
            false,
            &[
                "app=web,",
                ",app",
                "app web",
                "app in a",
                "app in (a",
                "app in (a b)",
                "a>x",
                "=web",
                "app=(",
                "!app=web",
                "-app",
                "app=-web",
                "Example.com/app",
                "a/b/c",
                "app===web",
                "app in (!)",
                "/app",
                "a/",
            ],
        );
        check(false, &[&"a".repeat(64)]);
    }

    proptest! {
        #[test]
        fn no_selector_makes_it_panic(selector in "(in|notin|[ a=!(),<>/.\u{e9}\0-]){0,12}") {
            is_valid(&selector);
        }
    }
}
