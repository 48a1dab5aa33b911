//! Whether there is anything to be found in a text at all: quickly, and without a copy of it, since in most there is not.

use std::sync::LazyLock;

use super::{
    DetectorSet, FORMATS, Format, LONGEST,
    shape::{self, Place},
};
use crate::Detector;

/// Three consecutive bytes that begin something, many at once: each has a group, and of the groups that all three bytes may
/// belong to, none is left in most places.
struct Beginnings([[u16; 256]; 3]);

/// The groups of prefixes; those after them are for shapes.
const GROUPS: u16 = 14;
const CARD: u16 = 1 << 14;
const IBAN: u16 = 1 << 15;

impl Beginnings {
    fn new(prefixes: &[Format], with_shapes: bool) -> Self {
        let mut groups = [[0; 256]; 3];
        for format in prefixes {
            let group = 1 << (u16::from(format.prefix.as_bytes()[0]) % GROUPS);
            for (place, byte) in groups.iter_mut().zip(format.prefix.bytes()) {
                place[usize::from(byte)] |= group;
                if !format.exact {
                    place[usize::from(byte.to_ascii_uppercase())] |= group;
                }
            }
        }
        for (place, group) in groups.iter_mut().enumerate().filter(|_| with_shapes) {
            let letters = if place < 2 { b'A'..=b'Z' } else { b'0'..=b'9' };
            letters.for_each(|byte| group[usize::from(byte)] |= IBAN);
            (b'0'..=b'9').for_each(|byte| group[usize::from(byte)] |= CARD);
        }
        Self(groups)
    }

    /// The next place, from `at` on, where something may begin that is no shorter than three bytes.
    #[inline]
    fn next(&self, text: &[u8], mut at: usize) -> Option<usize> {
        let Self([first, second, third]) = self;
        let groups =
            |a: u8, b: u8, c: u8| first[usize::from(a)] & second[usize::from(b)] & third[usize::from(c)];
        // Four places at once: there is nothing at most of them.
        while let Some([a, b, c, d, e, f]) = text.get(at..).and_then(|rest| rest.first_chunk().copied()) {
            let here = [groups(a, b, c), groups(b, c, d), groups(c, d, e), groups(d, e, f)];
            if here[0] | here[1] | here[2] | here[3] != 0 {
                return here.into_iter().position(|groups| groups != 0).map(|found| at + found);
            }
            at += 4;
        }
        let rest = text.get(at..)?.windows(3);
        rest.map(|bytes| groups(bytes[0], bytes[1], bytes[2]))
            .position(|groups| groups != 0)
            .map(|found| at + found)
    }
}

static PREFIXES: LazyLock<Beginnings> = LazyLock::new(|| Beginnings::new(FORMATS, false));
static MARKS: LazyLock<Beginnings> = LazyLock::new(|| Beginnings::new(FORMATS, true));

/// Where the next prefix begins, from `at` on.
pub(crate) fn next_prefix(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = PREFIXES.next(text, at)?;
        if Format::at(&text[at..]).next().is_some() {
            return Some(at);
        }
        at += 1;
    }
}

/// Whether one of the detectors, which work on streams, finds anything in a text that is whole.
pub(crate) fn finds(text: &[u8], mut wanted: DetectorSet) -> bool {
    const NUMBERS: [Detector; 2] = [Detector::Card, Detector::Iban];
    if text.len() < Format::SHORTEST && !shape::DETECTORS.into_iter().any(|shape| wanted.contains(shape)) {
        return false;
    }
    if text.len() <= LONGEST && memchr::memchr(b'@', text).is_none() {
        wanted = wanted.without([Detector::Email, Detector::UrlPassword]);
    }
    let place = Place { bytes: text, from: 0, before: None, last: true };
    if wanted.contains(Detector::Email) && shape::next(Detector::Email, place).is_some() {
        return true;
    }
    let numbers = NUMBERS.into_iter().any(|number| wanted.contains(number));
    let marks: &Beginnings = if numbers { &MARKS } else { &PREFIXES };
    let mut at = 0;
    while let Some(found) = marks.next(text, at) {
        let previous = found.checked_sub(1).map(|at| text[at]);
        let mut formats = Format::at_if(&text[found..], |detector| wanted.contains(detector));
        let is_secret = |format: &Format| format.may_follow(previous) && format.is_whole(&text[found..]);
        let is_number = |number| wanted.contains(number) && shape::is_at(number, place, found);
        if formats.any(is_secret) || (numbers && NUMBERS.into_iter().any(is_number)) {
            return true;
        }
        at = found + 1;
    }
    false
}
