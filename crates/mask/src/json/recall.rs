//! What has been passed over before. The items of a list are alike: most of each is, byte for byte, what stood in one before it, with
//! the same rules about it. What was passed over once is passed over again for the price of a comparison.
//!
//! **Invariant.** Nothing is passed over here that has not been passed over by [`Skimmer`](super::skim::Skimmer) before just as it stands, or
//! been read by the masker, which said that nothing comes of it wherever it comes again: the same bytes, whole members or elements of a
//! container and the commas behind them, in a container of the same state, searched by the same rules, with no less room for containers in
//! it. Where that is looked for is a guess; a wrong one costs time and nothing else.

use wide::u8x16;

use crate::rules::{Accept, Automaton, RuleBits, StateId};

/// The most that is remembered, in bytes of text and in members and elements: some 200 KiB in all.
const MOST: usize = 48 * 1024;
const MOST_MARKS: usize = 4096;
/// How much of one run is remembered, in bytes; and from how much on it is worth it.
const RUN: usize = 8 * 1024;
const LEAST: usize = 48;
/// How many bytes are passed over before it is asked whether remembering was of use; and before it is tried again, if it was not.
const TRIAL: usize = 512 * 1024;
const REST: usize = 8 * TRIAL;
const SLOTS: usize = 2048;
/// How many members and elements are remembered that were read, and how long they are at most, in bytes.
const WHOLES: usize = 64;
const WHOLE: usize = 1024;

/// A container in which values are passed over.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) state: StateId,
    pub(super) object: bool,
    /// Which rules search everything there: see [`Recall::mode`].
    pub(super) mode: u8,
    /// How many more containers may be open.
    pub(super) room: u32,
}

impl Place {
    /// Whether what was passed over here is passed over there.
    #[inline]
    fn fits(self, there: Self) -> bool {
        (self.state, self.object, self.mode) == (there.state, there.object, there.mode)
            && self.room <= there.room
    }
}

/// Where a member or element stands that has been passed over.
#[derive(Clone, Copy)]
struct Mark {
    /// Where it begins in the text.
    at: usize,
    /// Where it ends, or else [`OPEN`].
    end: usize,
    place: Place,
    /// The next one in the same container.
    next: Cursor,
    /// The first one in the container that is its value.
    child: Cursor,
}

/// The end of what does not end in the text.
const OPEN: usize = usize::MAX;

/// What has been passed over because it came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) bytes: usize,
    /// How many members or elements that is.
    pub(super) members: u32,
    /// Whether the last of them is passed over with the comma behind it.
    pub(super) comma: bool,
    /// Whether it is one that was [read](Recall::learn_whole).
    pub(super) read: bool,
}

/// A mark, or none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor(u32);

impl Cursor {
    const NONE: Self = Self(0);

    const fn to(index: usize) -> Self {
        Self(index as u32 + 1)
    }

    /// Beyond all marks, for none.
    #[inline]
    const fn index(self) -> usize {
        (self.0 as usize).wrapping_sub(1)
    }
}

/// A member or element that the masker has read, and of which nothing has come.
struct Whole {
    place: Place,
    text: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Recall {
    text: Vec<u8>,
    marks: Vec<Mark>,
    /// The newest mark of each state and first bytes.
    slots: Vec<Cursor>,
    modes: Vec<Option<RuleBits>>,
    /// Those that came last, by their first bytes.
    wholes: Vec<Option<Whole>>,
    /// In containers of which states there are any, a bit for each state modulo 64.
    whole_states: u64,
    /// Where in the chunk something came again: how far that was from where it is remembered, and up to where it is the same.
    same: (usize, usize),
    /// Where in the chunk something came first, since it was last learnt, that is not remembered.
    missed: Option<(usize, Place)>,
    /// How many bytes have been passed over lately, and how many of them were remembered.
    passed: usize,
    recalled: usize,
    /// How many bytes are passed over without it.
    rest: usize,
}

impl Recall {
    /// What stands for these rules, which search everything, or for none doing so. `None` where it is of no use to remember, and for
    /// too many of those.
    #[inline]
    pub(super) fn mode(&mut self, searching: Option<RuleBits>) -> Option<u8> {
        if self.rest > 0 {
            return None;
        }
        let known = self.modes.iter().position(|known| *known == searching);
        u8::try_from(known.unwrap_or_else(|| {
            self.modes.truncate(usize::from(u8::MAX) + 1);
            self.modes.push(searching);
            self.modes.len() - 1
        }))
        .ok()
    }

    /// What is known is of another chunk.
    pub(super) fn forget_chunk(&mut self) {
        self.same = (0, 0);
    }

    /// Passes over members or elements from `at` on that have been passed over before, as many as come again. Leaves in `cursor`
    /// where what comes then has been passed over.
    #[inline]
    pub(super) fn follow(
        &mut self,
        cursor: &mut Cursor,
        place: Place,
        chunk: &[u8],
        at: usize,
    ) -> Option<Followed> {
        self.follow_marks(cursor, place, chunk, at).or_else(|| {
            let bytes = self.whole(place, &chunk[at..])?;
            *cursor = self.after(*cursor).0;
            self.recalled += bytes;
            Some(Followed { bytes, members: 1, comma: false, read: true })
        })
    }

    /// How long the whole member or element is that begins here, and that came before.
    #[inline]
    fn whole(&self, place: Place, rest: &[u8]) -> Option<usize> {
        let first = rest.first_chunk().filter(|_| self.whole_states & state_bit(place.state) != 0)?;
        let known = self.wholes.get(whole_slot(place.state, first))?.as_ref()?;
        let length = known.text.len();
        let ends = matches!(rest.get(length), Some(b',' | b'}' | b']'));
        (ends && known.place.fits(place) && rest.starts_with(&known.text)).then_some(length)
    }

    /// This member or element has been read, and nothing has come of it.
    #[inline]
    pub(super) fn learn_whole(&mut self, text: &[u8], place: Place) {
        if self.rest > 0 || text.len() > WHOLE {
            return;
        }
        let Some(first) = text.first_chunk() else { return };
        if self.wholes.is_empty() {
            self.wholes.resize_with(WHOLES, || None);
        }
        self.whole_states |= state_bit(place.state);
        self.passed += text.len();
        let known = &mut self.wholes[whole_slot(place.state, first)];
        let known = known.get_or_insert_with(|| Whole { place, text: Vec::new() });
        known.place = place;
        known.text.clear();
        known.text.extend_from_slice(text);
    }

    #[inline]
    fn follow_marks(
        &mut self,
        cursor: &mut Cursor,
        place: Place,
        chunk: &[u8],
        at: usize,
    ) -> Option<Followed> {
        let rest = &chunk[at..];
        let first = rest.first_chunk()?;
        let begins = self.mark(*cursor, place, first).or_else(|| {
            *cursor = *self.slots.get(slot(place.state, first))?;
            self.mark(*cursor, place, first)
        });
        let Some(Mark { at: begin, .. }) = begins.copied() else {
            *cursor = Cursor::NONE;
            self.missed.get_or_insert((at, place));
            return None;
        };
        let (shift, mut until) = (at.wrapping_sub(begin), self.same.1);
        if shift != self.same.0 || at >= until {
            until = at + alike(&self.text[begin..], rest);
            self.same = (shift, until);
        }
        let same = until - at;
        let mut followed = Followed { bytes: 0, members: 0, comma: true, read: false };
        let mut mark = self.at(*cursor)?;
        while let Some(next) = self.at(mark.next).filter(|next| next.at - begin <= same) {
            *cursor = mark.next;
            followed.members += 1;
            mark = next;
        }
        followed.bytes = mark.at - begin;
        // What comes last in a container has no comma behind it.
        let last = mark.end.wrapping_sub(begin);
        if last <= same && matches!(rest.get(last), Some(b',' | b'}' | b']')) {
            *cursor = mark.next;
            followed = Followed { bytes: last, members: followed.members + 1, comma: false, ..followed };
        }
        self.recalled += followed.bytes;
        (followed.members > 0).then_some(followed)
    }

    /// Where what follows on that member or element has been passed over, and what is in it.
    #[inline]
    pub(super) fn after(&self, cursor: Cursor) -> (Cursor, Cursor) {
        self.at(cursor).map_or_else(Default::default, |mark| (mark.next, mark.child))
    }

    /// This run of the chunk has been passed over. Learns from it what was not remembered.
    #[inline]
    pub(super) fn learn(&mut self, chunk: &[u8], run: std::ops::Range<usize>, automaton: &Automaton<Accept>) {
        if self.rest > 0 {
            self.rest = self.rest.saturating_sub(run.len());
            return;
        }
        if let Some((at, place)) = self.missed.take()
            && at + LEAST <= run.end
        {
            self.remember(&chunk[at..run.end.min(at + RUN)], place, automaton);
        }
        self.passed += run.len();
        if self.passed > TRIAL {
            if self.recalled < self.passed / 4 {
                self.text.clear();
                self.marks.clear();
                self.slots.clear();
                self.wholes.clear();
                self.whole_states = 0;
                self.forget_chunk();
                self.rest = REST;
            }
            (self.passed, self.recalled) = (0, 0);
        }
    }

    fn end(&mut self, mark: Cursor, at: usize) {
        if let Some(mark) = self.marks.get_mut(mark.index()) {
            mark.end = at;
        }
    }

    #[inline]
    fn at(&self, cursor: Cursor) -> Option<&Mark> {
        self.marks.get(cursor.index())
    }

    /// The mark there, if what it marks was in such a place and begins like this.
    #[inline]
    fn mark(&self, cursor: Cursor, place: Place, first: &[u8; 8]) -> Option<&Mark> {
        let mark = self.at(cursor)?;
        (mark.place.fits(place) && self.text[mark.at..].first_chunk() == Some(first)).then_some(mark)
    }

    /// Notes where in `run`, which has just been passed over, members and elements begin.
    #[inline(never)]
    fn remember(&mut self, run: &[u8], place: Place, automaton: &Automaton<Accept>) {
        if self.text.len() + run.len() > MOST {
            return;
        }
        self.slots.resize(SLOTS, Cursor::NONE);
        let begin = self.text.len();
        self.text.extend_from_slice(run);
        // The open containers: of each, its place, its last mark, and the mark that opened it.
        let mut open = vec![(place, Cursor::NONE, Cursor::NONE)];
        let mut at = 0;
        while at < run.len() && self.marks.len() < MOST_MARKS {
            let Some((place, last, opener)) = open.last_mut() else { return };
            let (place, mark) = (*place, Cursor::to(self.marks.len()));
            let (next, child) = (Cursor::NONE, Cursor::NONE);
            self.marks.push(Mark { at: begin + at, end: OPEN, place, next, child });
            let (before, opener) = (std::mem::replace(last, mark), *opener);
            if let Some(before) = self.marks.get_mut(before.index()) {
                before.next = mark;
            } else if let Some(opener) = self.marks.get_mut(opener.index()) {
                opener.child = mark;
            }
            if let Some(first) = run[at..].first_chunk() {
                self.slots[slot(place.state, first)] = mark;
            }
            // It has been read before: strings are plain, and end with the next quote.
            let string = |at: usize| Some(at + 2 + memchr::memchr(b'"', run.get(at + 1..)?)?);
            let mut state = automaton.element(place.state);
            if place.object {
                let Some(end) = string(at) else { return };
                state = automaton.member(place.state, &run[at + 1..end - 1]);
                at = end + 1;
            }
            match run.get(at) {
                Some(b'"') => {
                    let Some(end) = string(at) else { return };
                    at = end;
                }
                Some(bracket @ (b'{' | b'[')) => {
                    at += 1;
                    let room = place.room.saturating_sub(1);
                    open.push((Place { state, object: *bracket == b'{', room, ..place }, Cursor::NONE, mark));
                    if !matches!(run.get(at), Some(b'}' | b']')) {
                        continue;
                    }
                }
                _ => {
                    let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']');
                    let Some(length) = run.get(at..).and_then(|rest| rest.iter().position(ends)) else {
                        return;
                    };
                    at += length;
                }
            }
            self.end(mark, begin + at);
            while matches!(run.get(at), Some(b'}' | b']')) {
                let Some((.., opener)) = open.pop() else { return };
                at += 1;
                self.end(opener, begin + at);
            }
            // A comma, unless the run ends.
            at += 1;
        }
    }
}

#[inline]
fn slot(state: StateId, first: &[u8; 8]) -> usize {
    let mixed = (u64::from_le_bytes(*first) ^ u64::from(state)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 53) as usize % SLOTS
}

#[inline]
fn state_bit(state: StateId) -> u64 {
    1 << (state % 64)
}

/// More is looked at of what was read, so that it is found among others like it.
#[inline]
fn whole_slot(state: StateId, first: &[u8; 24]) -> usize {
    let (words, _) = first.as_chunks::<8>();
    let mix = |mixed: u64, word: &[u8; 8]| {
        (mixed.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    (words.iter().fold(u64::from(state), mix) >> 48) as usize % WHOLES
}

/// How many bytes the two begin with that are the same.
#[inline]
fn alike(one: &[u8], other: &[u8]) -> usize {
    let ((ones, _), (others, _)) = (one.as_chunks::<16>(), other.as_chunks::<16>());
    let mut same = 0;
    for (one, other) in ones.iter().zip(others) {
        let equal = u8x16::new(*one).simd_eq(u8x16::new(*other)).to_bitmask();
        if equal != 0xffff {
            return same + equal.trailing_ones() as usize;
        }
        same += 16;
    }
    same + one[same..].iter().zip(&other[same..]).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members of an object, and what stands behind it.
    const TEXT: &str =
        r#""a":{"b":[1,2]},"ccc":"a text","d":[true,null,{"x":1},{"x":2}],"e":-12,"f":{},"g":0},"#;
    /// Where the members begin that a comma stands before.
    const MEMBERS: [&str; 6] = ["\"a\"", "\"ccc\"", "\"d\"", "\"e\"", "\"f\"", "\"g\""];
    const PLACE: Place = Place { state: 0, object: true, mode: 0, room: 4 };

    /// After [`TEXT`] has been passed over in [`PLACE`], and where that begins.
    fn learnt() -> (Recall, Cursor, Automaton<Accept>) {
        let automaton = Automaton::new(&[]).unwrap();
        let (mut recall, mut cursor) = (Recall::default(), Cursor::NONE);
        assert_eq!(recall.follow(&mut cursor, PLACE, TEXT.as_bytes(), 0), None);
        recall.learn(TEXT.as_bytes(), 0..TEXT.len() - 1, &automaton);
        assert_eq!(recall.follow(&mut cursor, PLACE, &TEXT.as_bytes()[..10], 0), None);
        assert!(cursor != Cursor::NONE, "it is known, but no whole member comes again");
        recall.forget_chunk();
        (recall, cursor, automaton)
    }

    #[test]
    fn whole_members_are_passed_over_as_far_as_they_are_the_same() {
        let begins = MEMBERS.map(|member| TEXT.find(member).unwrap());
        for (at, other) in (0..TEXT.len() - 1).flat_map(|at| [(at, b'}'), (at, b'0'), (at, b'\x01')]) {
            let mut changed = [b"{".as_slice(), TEXT.as_bytes()].concat();
            if std::mem::replace(&mut changed[at + 1], other) == other {
                continue;
            }
            for end in [changed.len(), at + 1, at + 2] {
                let (mut recall, mut cursor, _) = learnt();
                let followed = recall.follow(&mut cursor, PLACE, &changed[..end], 1);
                let same = at.min(end - 1);
                let whole = begins.iter().rposition(|begin| *begin <= same).unwrap_or(0);
                let comma =
                    Followed { bytes: begins[whole], members: whole as u32, comma: true, read: false };
                // Of what comes next all but the comma may be the same.
                let last = begins.get(whole + 1).map(|next| next - 1).filter(|last| {
                    *last <= same && matches!(changed[..end].get(last + 1), Some(b',' | b'}' | b']'))
                });
                let last =
                    last.map(|bytes| Followed { bytes, members: comma.members + 1, comma: false, ..comma });
                let expected = last.or((whole > 0).then_some(comma)).filter(|_| end > 8);
                assert_eq!(followed, expected, "{at} {end} {other}");
            }
        }
    }

    #[test]
    fn what_is_in_a_member_is_found_by_way_of_it() {
        let (recall, mut cursor, automaton) = learnt();
        let texts = |cursor| std::str::from_utf8(&recall.text[recall.at(cursor).unwrap().at..]).unwrap();
        for member in MEMBERS {
            assert!(texts(cursor).starts_with(member));
            let (next, child) = recall.after(cursor);
            match member {
                "\"a\"" => assert!(texts(child).starts_with("\"b\"")),
                "\"d\"" => {
                    let Place { state, object, room, .. } = recall.at(child).unwrap().place;
                    assert_eq!((state, object, room), (automaton.member(0, b"d"), false, 3));
                    let (second, none) = recall.after(child);
                    assert!(texts(second).starts_with("null") && none == Cursor::NONE);
                    let (third, _) = recall.after(second);
                    let (fourth, inside) = recall.after(third);
                    assert!(texts(fourth).starts_with("{\"x\":2") && texts(inside).starts_with("\"x\":1"));
                    assert!(recall.after(fourth).0 == Cursor::NONE);
                }
                _ => assert!(child == Cursor::NONE),
            }
            cursor = next;
        }
        assert!(cursor == Cursor::NONE);
    }

    #[test]
    fn nothing_is_passed_over_in_another_place() {
        let (mut recall, start, _) = learnt();
        let mut follow = |place| recall.follow(&mut start.clone(), place, TEXT.as_bytes(), 0);
        let all = Some(Followed { bytes: TEXT.rfind('}').unwrap(), members: 6, comma: false, read: false });
        assert_eq!([follow(PLACE), follow(Place { room: 5, ..PLACE })], [all, all]);
        for place in [
            Place { state: 1, ..PLACE },
            Place { object: false, ..PLACE },
            Place { mode: 1, ..PLACE },
            Place { room: 3, ..PLACE },
        ] {
            assert_eq!(follow(place), None);
        }
        let modes = [None, Some(0), Some(1), None, Some(1)].map(|searching| recall.mode(searching));
        assert_eq!(modes, [Some(0), Some(1), Some(2), Some(0), Some(2)]);
        let many: Vec<_> = (0..300).map(|rules| recall.mode(Some(rules))).collect();
        assert!(many[254].is_some() && many[255..].iter().all(Option::is_none), "{many:?}");
    }

    #[test]
    fn what_was_read_comes_again_as_a_whole_or_not_at_all() {
        const READ: &str = r#"{"name":"a name","value":[0.5, "\""]}"#;
        let follow = |recall: &mut Recall, place, text: &str| {
            recall.forget_chunk();
            recall.follow(&mut Cursor::NONE.clone(), place, text.as_bytes(), 0)
        };
        let mut recall = Recall::default();
        recall.learn_whole(READ.as_bytes(), PLACE);
        let whole = Some(Followed { bytes: READ.len(), members: 1, comma: false, read: true });
        for end in [",", "}", "]", ",]"] {
            assert_eq!(follow(&mut recall, PLACE, &format!("{READ}{end}")), whole);
        }
        for other in
            [READ.to_owned(), format!("{READ} "), format!("{READ}1"), READ.replace("0.5", "0.4") + ","]
        {
            assert_eq!(follow(&mut recall, PLACE, &other), None, "{other}");
        }
        let again = format!("{READ},");
        for place in [
            Place { state: 1, ..PLACE },
            Place { object: false, ..PLACE },
            Place { mode: 1, ..PLACE },
            Place { room: 3, ..PLACE },
        ] {
            assert_eq!(follow(&mut recall, place, &again), None);
        }
        // Others that begin like it take its place.
        recall.learn_whole(READ.replace("0.5", "0.4").as_bytes(), PLACE);
        assert_eq!(follow(&mut recall, PLACE, &again), None);
        recall.learn_whole(READ.as_bytes(), PLACE);
        assert_eq!(follow(&mut recall, PLACE, &again), whole);
        // What is too long, or too short to be told from others, is not remembered.
        for text in [format!("[{}1]", "1,".repeat(WHOLE / 2)), "[1]".to_owned()] {
            recall.learn_whole(text.as_bytes(), PLACE);
            assert_eq!(follow(&mut recall, PLACE, &(text + ",")), None);
        }
        assert!(recall.wholes.len() == WHOLES && recall.text.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_when_it_is_of_no_use() {
        let (mut recall, _, automaton) = learnt();
        let other = |number: usize| format!("{:0>9},", number).repeat(900);
        let mut pass = |run: &str| {
            if let Some(mode) = recall.mode(None) {
                let place = Place { object: false, mode, ..PLACE };
                recall.follow(&mut Cursor::default(), place, run.as_bytes(), 0);
            }
            recall.learn(run.as_bytes(), 0..run.len(), &automaton);
            (recall.text.len(), recall.marks.len())
        };
        let sizes: Vec<_> = (0..100).map(|number| pass(&other(number))).collect();
        let most = sizes.iter().copied().max().unwrap();
        assert!(most.0 <= MOST && most.0 > MOST - RUN && most.1 <= MOST_MARKS, "{most:?}");
        assert_eq!((sizes[99], recall.mode(None)), ((0, 0), None));
        while recall.rest > 0 {
            recall.learn(TEXT.as_bytes(), 0..TEXT.len(), &automaton);
        }
        assert_eq!(recall.mode(None), Some(0));
    }
}
