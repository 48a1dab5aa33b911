//! What is known by its shape alone: e-mail addresses, IBANs, numbers of cards. Each is short, and what may still become one
//! at the end of a chunk is shorter.

use super::Detector;

/// What this module finds.
pub(crate) const DETECTORS: [Detector; 3] = [Detector::Email, Detector::Iban, Detector::Card];

/// Something found, or begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) start: usize,
    /// Where it ends; `None` if that depends on what comes.
    pub(crate) end: Option<usize>,
    /// How many bytes of what has begun say nothing by themselves: a terminal shows them at once.
    pub(crate) harmless: usize,
}

/// A place in a text from which on shapes are looked for.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) from: usize,
    /// What stood before the first byte.
    pub(crate) before: Option<u8>,
    /// Whether nothing more comes.
    pub(crate) last: bool,
}

/// The next thing of this shape that is found or has begun.
pub(crate) fn next(detector: Detector, place: Place<'_>) -> Option<Shape> {
    match detector {
        Detector::Email => next_email(place),
        Detector::Iban => next_bounded(place, iban, |byte| byte.is_ascii_uppercase(), 4),
        // The first six digits tell the bank, not the account.
        Detector::Card => next_bounded(place, card, |byte| byte.is_ascii_digit(), 6),
        _ => None,
    }
}

/// Whether a number of this kind begins here, in a text of which nothing more comes.
pub(crate) fn is_at(detector: Detector, place: Place<'_>, at: usize) -> bool {
    let look = match (detector, place.bytes.get(at)) {
        (Detector::Iban, Some(b'A'..=b'Z')) => iban,
        (Detector::Card, Some(b'0'..=b'9')) => card,
        _ => return false,
    };
    !place.is_inside(at) && matches!(look(&place.bytes[at..], true), Look::Found(_))
}

impl Place<'_> {
    /// Whether this is no beginning of a number, but the middle of something else.
    fn is_inside(self, at: usize) -> bool {
        self.previous(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
    }

    fn previous(&self, at: usize) -> Option<u8> {
        at.checked_sub(1).map_or(self.before, |at| Some(self.bytes[at]))
    }
}

const LONGEST_LOCAL_PART: usize = 64;
const LONGEST_DOMAIN: usize = 254;

fn next_email(place: Place<'_>) -> Option<Shape> {
    let bytes = place.bytes;
    // The name before an `@`, if it is no longer than a name may be.
    let name_before = |end: usize| {
        let run = bytes[place.from..end].iter().rev().take(LONGEST_LOCAL_PART + 1);
        let length = run.take_while(|byte| in_name(**byte)).count();
        let start = end - length;
        let goes_on = place.previous(start).is_some_and(in_name);
        (length <= LONGEST_LOCAL_PART && length > 0 && !goes_on).then_some(start)
    };
    let mut from = place.from;
    while let Some(found) = memchr::memchr(b'@', bytes.get(from..)?) {
        let at = from + found;
        from = at + 1;
        let Some(start) = name_before(at) else { continue };
        // Punctuation before a name is no part of it.
        let Some(skip) = bytes[start..at].iter().position(u8::is_ascii_alphanumeric) else { continue };
        let domain = bytes[at + 1..].iter().take(LONGEST_DOMAIN + 1).take_while(|byte| in_domain(**byte));
        let length = domain.count();
        if length > LONGEST_DOMAIN {
            continue;
        }
        if at + 1 + length == bytes.len() && !place.last {
            return Some(Shape { start, end: None, harmless: at + 1 - start });
        }
        let start = start + skip;
        let domain = &bytes[at + 1..at + 1 + length];
        let trimmed = length - domain.iter().rev().take_while(|byte| b".-".contains(byte)).count();
        if &bytes[start..at] != b"git" && is_domain(&domain[..trimmed]) {
            return Some(Shape { start, end: Some(at + 1 + trimmed), harmless: 0 });
        }
    }
    if place.last {
        return None;
    }
    let start = name_before(bytes.len())?;
    Some(Shape { start, end: None, harmless: bytes.len() - start })
}

fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._%+-".contains(&byte)
}

fn in_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-".contains(&byte)
}

fn is_domain(domain: &[u8]) -> bool {
    /// The ends of names of units and of hosts within clusters.
    const NOT_TOP: [&[u8]; 6] = [b"service", b"socket", b"timer", b"local", b"internal", b"svc"];
    let mut labels = domain.rsplit(|byte| *byte == b'.');
    let top = labels.next().unwrap_or_default();
    let mut labels = labels.peekable();
    top.len() >= 2
        && top.iter().all(u8::is_ascii_alphabetic)
        && !NOT_TOP.contains(&top)
        && labels.peek().is_some()
        && labels.all(|label| !label.is_empty())
}

/// What a look at a place gives.
enum Look {
    Nothing,
    More,
    Found(usize),
}

/// The next place at which `look` finds something. It looks at a bounded number of bytes.
fn next_bounded(
    place: Place<'_>,
    look: fn(&[u8], bool) -> Look,
    may_begin: fn(&u8) -> bool,
    harmless: usize,
) -> Option<Shape> {
    let mut at = place.from;
    loop {
        at += place.bytes.get(at..)?.iter().position(may_begin)?;
        match if place.is_inside(at) { Look::Nothing } else { look(&place.bytes[at..], place.last) } {
            Look::Nothing => at += 1,
            Look::More => {
                let harmless = harmless.min(place.bytes.len() - at);
                return Some(Shape { start: at, end: None, harmless });
            }
            Look::Found(length) => return Some(Shape { start: at, end: Some(at + length), harmless: 0 }),
        }
    }
}

/// How long the numbers of each country are.
const IBANS: [(&[u8; 2], usize); 77] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NL", 18),
    (b"NO", 15),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"SA", 24),
    (b"SC", 31),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"XK", 20),
];

/// An IBAN, written in one or in groups of four.
fn iban(bytes: &[u8], last: bool) -> Look {
    let ended = if last { Look::Nothing } else { Look::More };
    let Some(country) = bytes.get(..2) else { return ended };
    let Some((_, wanted)) = IBANS.iter().find(|(known, _)| country == *known) else { return Look::Nothing };
    let mut characters = Vec::with_capacity(*wanted);
    let mut at = 0;
    let grouped = bytes.get(4) == Some(&b' ');
    while characters.len() < *wanted {
        let is_gap = grouped && !characters.is_empty() && characters.len() % 4 == 0;
        match (is_gap, bytes.get(at)) {
            (_, None) => return ended,
            (true, Some(b' ')) => at += 1,
            (true, Some(_)) => return Look::Nothing,
            (false, Some(_)) => {}
        }
        match bytes.get(at) {
            None => return ended,
            Some(byte) if byte.is_ascii_digit() => {}
            Some(byte) if byte.is_ascii_uppercase() && !(2..4).contains(&characters.len()) => {}
            Some(_) => return Look::Nothing,
        }
        characters.push(bytes[at]);
        at += 1;
    }
    match bytes.get(at) {
        None if !last => return Look::More,
        Some(next) if next.is_ascii_alphanumeric() => return Look::Nothing,
        _ => {}
    }
    // ISO 7064, mod 97-10: letters count as 10 to 35, the first four characters come last.
    let rotated = characters[4..].iter().chain(&characters[..4]);
    let remainder = rotated.fold(0, |sum: u32, byte| match byte {
        b'0'..=b'9' => (sum * 10 + u32::from(byte - b'0')) % 97,
        letter => (sum * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    if remainder == 1 { Look::Found(at) } else { Look::Nothing }
}

/// The number of a card, written in one or in the groups that are printed on it.
fn card(bytes: &[u8], last: bool) -> Look {
    const LONGEST: usize = 19;
    const GROUPED: [&[usize]; 4] = [&[4, 4, 4, 4], &[4, 4, 4, 4, 3], &[4, 6, 5], &[4, 6, 4]];
    let (mut groups, mut count) = ([0; 5], 0);
    let (mut digits, mut length) = ([0; LONGEST], 0);
    let mut found = Look::Nothing;
    let mut at = 0;
    loop {
        let group = bytes[at..].iter().take(LONGEST + 1).take_while(|byte| byte.is_ascii_digit()).count();
        if group == 0 || group > LONGEST || length + group > LONGEST {
            return found;
        }
        for (digit, byte) in digits[length..].iter_mut().zip(&bytes[at..at + group]) {
            *digit = byte - b'0';
        }
        groups[count] = group;
        (count, length) = (count + 1, length + group);
        let (groups, digits) = (&groups[..count], &digits[..length]);
        at += group;
        let next = bytes.get(at);
        if next.is_none() && !last {
            return Look::More;
        }
        if next.is_some_and(|byte| byte.is_ascii_alphanumeric()) {
            return found;
        }
        let as_printed = groups.len() == 1 && group >= 13 || GROUPED.contains(&groups);
        if as_printed && is_issued(digits) && passes_luhn(digits) {
            found = Look::Found(at);
        }
        // Another group must follow the same mark.
        let mark = bytes.get(4).copied();
        let goes_on = next.is_some() && next == mark.as_ref() && matches!(mark, Some(b' ' | b'-'));
        if !goes_on || groups[0] != 4 || groups.len() == 5 {
            return found;
        }
        at += 1;
        match bytes.get(at) {
            None if !last => return Look::More,
            Some(byte) if byte.is_ascii_digit() => {}
            _ => return found,
        }
    }
}

/// Whether an issuer gives out such numbers.
fn is_issued(digits: &[u8]) -> bool {
    let prefix = digits.iter().take(4).fold(0, |prefix: u32, digit| prefix * 10 + u32::from(*digit));
    let lengths: &[usize] = match prefix {
        4000..=4999 => &[13, 16, 19],
        5100..=5599 | 2221..=2720 => &[16],
        3400..=3499 | 3700..=3799 => &[15],
        6011 | 6440..=6599 | 6200..=6299 | 3528..=3589 => &[16, 17, 18, 19],
        3000..=3059 | 3600..=3699 | 3800..=3899 => &[14, 15, 16, 17, 18, 19],
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => &[13, 14, 15, 16, 17, 18, 19],
        _ => &[],
    };
    lengths.contains(&digits.len())
}

fn passes_luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let values = digits.iter().rev().enumerate();
    let sum: u32 =
        values.map(|(at, digit)| u32::from(if at % 2 == 1 { doubled(*digit) } else { *digit })).sum();
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != digits[0])
}
