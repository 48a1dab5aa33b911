//! How texts become words and values, the same for records and for queries.

/// The longest value of a field, in bytes; what is longer is cut, in records.
pub(crate) const MOST_VALUE: usize = 256;
/// The longest word, in bytes; what is longer is cut: base64 is not read by anybody.
const MOST_WORD: usize = 64;

/// Stands for a space within a value: engines split at spaces.
const SPACE: char = '\u{a0}';

/// A field's value as it is compared: lower case, without spaces or control characters.
pub(crate) fn value(text: &str) -> String {
    let folded = text.chars().map(|c| if c.is_whitespace() || c.is_control() { SPACE } else { c });
    cut(&folded.flat_map(char::to_lowercase).collect::<String>(), MOST_VALUE).to_owned()
}

/// A value as people read it.
pub(crate) fn spaced(value: &str) -> String {
    value.replace(SPACE, " ")
}

/// Appends the words of a text, in order, a space before each: runs of letters and digits, in lower case.
pub(crate) fn add_words(text: &str, out: &mut String) {
    // Lower case first: it can take letters apart.
    let text = text.to_lowercase();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        out.push(' ');
        out.push_str(cut(word, MOST_WORD));
    }
}

/// The words of a text.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut out = String::new();
    add_words(text, &mut out);
    out.split_ascii_whitespace().map(str::to_owned).collect()
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// A terminal's output as text: without the sequences that move the cursor and set colours (ECMA-48 §5.4, §5.6).
pub(crate) fn without_escapes(output: &str) -> String {
    let mut text = String::with_capacity(output.len());
    let mut rest = output.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            text.push(c);
            continue;
        }
        match rest.next() {
            // Control sequence: parameters, then a final byte from `@` on.
            Some('[') => drop(rest.find(|c| ('\u{40}'..='\u{7e}').contains(c))),
            // Control string: to its terminator, `ESC \` or BEL.
            Some(']' | 'P' | 'X' | '^' | '_') => {
                while let Some(c) = rest.next() {
                    if c == '\u{7}' || c == '\u{1b}' && rest.next().is_some() {
                        break;
                    }
                }
            }
            _ => {}
        }
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_letters_and_digits() {
        let check = |text: &str, want: &[&str]| assert_eq!(words(text), want, "{text}");
        check("kubectl get pods/web-1 -n Shop", &["kubectl", "get", "pods", "web", "1", "n", "shop"]);
        check("Größe…", &["größe"]);
        check(&"é".repeat(40), &[&"é".repeat(32)]);
        check("--", &[]);
    }

    #[test]
    fn escapes_are_not_text() {
        let check = |text: &str, want: &str| assert_eq!(without_escapes(text), want);
        check("\u{1b}[1;31merror\u{1b}[0m: no", " error : no");
        check("\u{1b}]0;title\u{7}$ ls", " $ ls");
        check("\u{1b}]0;title\u{1b}\\$ ls", " $ ls");
        check("cut \u{1b}[", "cut  ");
    }
}
