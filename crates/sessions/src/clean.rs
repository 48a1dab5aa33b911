//! Recorded text is written by those who are watched: it must not do anything to who reads it but be read.

/// Whether a terminal, an editor or a browser shows the character, and does nothing else for it.
///
/// Not shown as they are: control characters (C0, DEL, C1), and invisible ones that change the order or the look of others,
/// so that what stands there is not what is read ([Trojan Source](https://trojansource.codes/)).
#[must_use]
pub fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// `text` on one line, each character that is not plain as U+FFFD.
#[must_use]
pub fn line(text: &str) -> String {
    text.chars().map(|character| if is_plain(character) { character } else { '\u{fffd}' }).collect()
}

/// `text` on as many lines as it has: line feeds and tabs stay; a carriage return begins a line, too, unless a line feed does.
#[must_use]
pub fn block(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' if characters.peek() == Some(&'\n') => {}
            '\r' => clean.push('\n'),
            '\n' | '\t' => clean.push(character),
            plain if is_plain(plain) => clean.push(plain),
            _ => clean.push('\u{fffd}'),
        }
    }
    clean
}

/// JSON text in which every character that is not plain is escaped: the same value, harmless on a terminal.
#[must_use]
pub fn json(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        // The line feeds between values are the only ones that JSON leaves unescaped.
        if is_plain(character) || character == '\n' {
            clean.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                clean.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_shown_as_such() {
        assert_eq!(line("a\u{1b}[2J\u{9b}b\u{202e}c\nd"), "a\u{fffd}[2J\u{fffd}b\u{fffd}c\u{fffd}d");
        assert_eq!(block("a\r\nb\tc\rd\u{7}"), "a\nb\tc\nd\u{fffd}");
        assert_eq!(line("grüße 世界 👋"), "grüße 世界 👋");
    }

    #[test]
    fn json_stays_what_it_was() {
        let value = serde_json::json!({"a": "x\u{9b}31m\u{202e}\u{e0041}\n"});
        let clean = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(clean.chars().all(|c| is_plain(c) || c == '\n'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&clean).unwrap(), value);
    }
}
