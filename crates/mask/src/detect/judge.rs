//! Which part of a run that follows a prefix is the secret.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Run, next_prefix};

/// What a part of the run would have to be.
type Secret = Option<Range<usize>>;

pub(super) fn whole(run: &Run<'_>) -> Secret {
    Some(0..run.bytes.len())
}

fn whole_if(run: &Run<'_>, valid: bool) -> Secret {
    valid.then_some(0..run.bytes.len())
}

pub(super) fn with_digit(run: &Run<'_>) -> Secret {
    whole_if(run, has_digit(run.bytes))
}

/// What follows `eyJ`: three parts (RFC 7515), or five (RFC 7516).
pub(super) fn jwt(run: &Run<'_>) -> Secret {
    let dots = run.bytes.iter().filter(|byte| **byte == b'.').count();
    let first = run.bytes.iter().position(|byte| *byte == b'.');
    whole_if(run, (dots == 2 || dots == 4) && first >= Some(6))
}

pub(super) fn aws_id(run: &Run<'_>) -> Secret {
    whole_if(run, run.bytes.len() == 16)
}

pub(super) fn aws_secret(run: &Run<'_>) -> Secret {
    whole_if(run, run.bytes.len() == 40)
}

/// 32 or 64 bytes, or somewhat more, in base64.
pub(super) fn azure_key(run: &Run<'_>) -> Secret {
    let length = run.bytes.len();
    whole_if(run, length.is_multiple_of(4) && length <= 128)
}

/// An HMAC-SHA-256 in base64, mostly escaped for URLs.
pub(super) fn azure_signature(run: &Run<'_>) -> Secret {
    let bytes = run.bytes;
    let escaped = bytes.ends_with(b"%3D") || bytes.ends_with(b"%3d");
    let escapes = bytes.iter().filter(|byte| **byte == b'%').count();
    whole_if(run, (escaped || bytes.ends_with(b"=")) && bytes.len() - 2 * escapes == 44)
}

/// The password in `user:password@host`. What else looks like a credential there goes with it.
pub(super) fn url_password(run: &Run<'_>) -> Secret {
    let at = run.bytes.iter().rposition(|byte| *byte == b'@')?;
    let colon = run.bytes[..at].iter().position(|byte| *byte == b':')?;
    let password = &run.bytes[colon + 1..at];
    // `host:80?to=ada@example.com` has a port, and no path.
    let port = password.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_port = password.get(port).is_some_and(|byte| b"?#".contains(byte));
    if password.is_empty() || is_port || is_placeholder(password) {
        return None;
    }
    let user_too = next_prefix(&run.bytes[..colon], 0).is_some();
    Some(if user_too { 0..at } else { colon + 1..at })
}

/// What stands after `Authorization:`, the scheme left out.
pub(super) fn authorization(run: &Run<'_>) -> Secret {
    /// Those whose credentials are a list, up to the end.
    const LISTS: [&str; 7] = ["digest", "aws4-hmac-sha256", "oauth", "hawk", "signature", "mac", "dpop"];
    const TOKENS: [&str; 12] = [
        "bearer",
        "token",
        "apikey",
        "api-key",
        "key",
        "negotiate",
        "ntlm",
        "ssws",
        "geniekey",
        "splunk",
        "sharedkey",
        "bot",
    ];
    // A header may be printed as a list.
    let from = run.bytes.iter().take(8).take_while(|byte| b"[\"'\\".contains(byte)).count();
    let text = &run.bytes[from..];
    let word = |at: usize| {
        let length =
            text[at..].iter().take_while(|byte| **byte > b' ' && !b"\"'`\\,;]})<>".contains(byte)).count();
        at..at + length
    };
    let first = word(0);
    let blanks = text[first.end..].iter().take_while(|byte| **byte == b' ').count();
    let second = word(first.end + blanks);
    let scheme = text[first.clone()].to_ascii_lowercase();
    let scheme = std::str::from_utf8(&scheme).unwrap_or_default();
    let credentials = &text[second.clone()];
    if credentials.starts_with(b"masked:") || text.starts_with(b"masked:") {
        return None;
    }
    let shift = |range: Range<usize>| range.start + from..range.end + from;
    let found = if blanks == 0 || second.is_empty() {
        is_random(&text[first.clone()]).then_some(first)
    } else if LISTS.contains(&scheme) {
        let has_parameters = credentials.contains(&b'=');
        has_parameters.then_some(second.start..text.len())
    } else if scheme == "basic" {
        let pair = STANDARD.decode(credentials).is_ok_and(|decoded| decoded.contains(&b':'));
        (pair || (credentials.len() >= 16 && has_digit(credentials))).then_some(second)
    } else if TOKENS.contains(&scheme) {
        let long = credentials.len() >= 20 || (credentials.len() >= 8 && has_digit(credentials));
        (long && !is_placeholder(credentials)).then_some(second)
    } else if is_random(&text[first.clone()]) {
        Some(first)
    } else {
        is_random(credentials).then_some(second)
    };
    found.map(shift)
}

/// What is given as a password: long enough, and neither a word of a message nor what stands for a password elsewhere.
pub(super) fn password(run: &Run<'_>) -> Secret {
    /// What messages say of passwords in one word.
    const SAID: [&str; 13] = [
        "password",
        "required",
        "forbidden",
        "incorrect",
        "rejected",
        "disabled",
        "authentication",
        "undefined",
        "configured",
        "unchanged",
        "provided",
        "mismatch",
        "redacted",
    ];
    let value = value(run);
    let text = &run.bytes[value.clone()];
    if text.len() < 8 || is_placeholder(text) {
        return None;
    }
    let is_word = text.iter().all(|byte| byte.is_ascii_alphabetic() || b"-_".contains(byte));
    let is_said = SAID.iter().any(|said| text.eq_ignore_ascii_case(said.as_bytes()));
    // After a colon, a word is a password only if nothing follows: messages go on.
    let goes_on = !matches!(run.next, None | Some(b'\n' | b'\r')) || value.end < run.bytes.len();
    let is_message = is_said || (run.bare && is_word && goes_on);
    (!is_message).then_some(value)
}

/// What is given as a token or a key: only what looks random.
pub(super) fn token(run: &Run<'_>) -> Secret {
    let value = value(run);
    let text = &run.bytes[value.clone()];
    (text.len() >= 16 && !is_placeholder(text) && is_random(text)).then_some(value)
}

/// The value at the beginning of a run that may hold more of a list, and what closes it.
fn value(run: &Run<'_>) -> Range<usize> {
    let bytes = run.bytes;
    let next_begins = |at: usize| {
        let name = bytes[at + 1..].iter().take(40);
        let length = name.take_while(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte)).count();
        let assigns = bytes.get(at + 1 + length).is_some_and(|byte| *byte == b'=' || *byte == b':');
        b"&;,".contains(&bytes[at]) && length > 0 && assigns
    };
    let end = (0..bytes.len()).find(|at| next_begins(*at)).unwrap_or(bytes.len());
    let closing = bytes[..end].iter().rev().take_while(|byte| b",;)]}".contains(byte)).count();
    0..end - closing
}

/// What stands for a secret that is somewhere else, or has been taken out.
fn is_placeholder(text: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 15] = [
        b"masked:",
        // The same in base64.
        b"bWFza2Vk",
        b"/",
        b"./",
        b"file:",
        b"vault:",
        b"arn:",
        b"<",
        b"{",
        b"[",
        b"(",
        b"&",
        b"0xc0",
        b"http://",
        b"https://",
    ];
    let contains = |part: &[u8]| memchr::memmem::find(text, part).is_some();
    let first = text.first().copied().unwrap_or_default();
    let is_variable = text.len() > 1
        && first == b'$'
        && text[1..].iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
    BEGINNINGS.iter().any(|beginning| text.starts_with(beginning))
        || (text.len() > 2 && text.iter().all(|byte| *byte == first))
        || is_variable
        || contains(b"{{")
        || contains(b"$(")
        || (first == b'$' && contains(b"{"))
        || contains(b"${")
        || text.ends_with(b"(")
        || text.ends_with(b"[")
        || text.ends_with(b"()")
        || text.eq_ignore_ascii_case(b"redacted")
        || text == b"%s"
}

/// Whether a text has a part that nobody would think of: names have hyphens, words have no digits between their letters.
fn is_random(text: &[u8]) -> bool {
    let has = |class: fn(&u8) -> bool| text.iter().any(class);
    let encoded = text.len() >= 20
        && text.iter().all(|byte| super::base64(*byte))
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && entropy(text) >= 4.0;
    let random = |part: &[u8]| {
        let changes = part.windows(2).filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit());
        part.len() >= 16 && changes.count() >= 3 && entropy(part) >= 3.0
    };
    encoded || text.split(|byte| !(byte.is_ascii_alphanumeric() || b"+=~".contains(byte))).any(random)
}

/// Shannon's, in bits for each byte.
fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in text {
        counts[usize::from(*byte)] += 1;
    }
    let length = text.len() as f64;
    let shares = counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / length);
    shares.map(|share| -share * share.log2()).sum()
}

fn has_digit(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit)
}
