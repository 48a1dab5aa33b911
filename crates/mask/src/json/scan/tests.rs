use portcullis_core::RequestInfo;
use proptest::prelude::*;

use super::*;
use crate::Scope;
use crate::detect::{Detector, DetectorSet};
use crate::json::{
    skim::{Search, SearchedState},
    tests::{chunks, scope},
};
use crate::rules::{Accept, Automaton, StateId};

/// Writes down what it is told, so that two ways of cutting the same bytes can be compared.
#[derive(Default, PartialEq, Debug)]
struct Notes(Vec<u8>);

impl Handler for Notes {
    fn open(&mut self, _: usize, object: bool) {
        self.0.push(if object { b'{' } else { b'[' });
    }
    fn close(&mut self, _: usize) -> Option<usize> {
        self.0.push(b')');
        None
    }
    fn key(&mut self, key: &[u8], _: Option<usize>) {
        self.0.extend_from_slice(key);
        self.0.push(b':');
    }
    fn open_string(&mut self, _: usize) -> Interest {
        self.0.push(b'<');
        Interest::Text
    }
    fn glance(&mut self, _: &[u8]) -> Result<bool, MaskErrorKind> {
        Ok(false)
    }
    fn look_at_string(&mut self, _: usize) -> Interest {
        Interest::Text
    }
    fn text(&mut self, run: &[u8]) -> Result<(), MaskErrorKind> {
        self.0.extend_from_slice(run);
        Ok(())
    }
    fn close_string(&mut self, _: usize) -> Result<(), MaskErrorKind> {
        self.0.push(b'>');
        Ok(())
    }
    fn open_scalar(&mut self, _: usize, _: Scalar) -> Interest {
        self.0.push(b'#');
        Interest::End
    }
    fn close_scalar(&mut self, _: usize) -> Result<(), MaskErrorKind> {
        self.0.push(b'.');
        Ok(())
    }
}

fn scan(chunks: &[&[u8]]) -> Result<String, MaskErrorKind> {
    let mut scanner = Scanner::new(64, 64, false);
    let mut notes = Notes::default();
    for chunk in chunks {
        scanner.push(chunk, &mut notes).map_err(|error| error.kind())?;
    }
    scanner.finish(&mut notes).map_err(|error| error.kind())?;
    Ok(String::from_utf8(notes.0).unwrap())
}

/// Whole, byte by byte, and cut in two at every place: the same answer each time.
fn check(json: &[u8], expected: Option<&str>) {
    let shown = String::from_utf8_lossy(json).into_owned();
    let bytes: Vec<&[u8]> = json.chunks(1).collect();
    assert_eq!(scan(&[json]).ok().as_deref(), expected, "{shown}");
    assert_eq!(scan(&bytes).ok().as_deref(), expected, "{shown} by the byte");
    for cut in 0..json.len() {
        let (left, right) = json.split_at(cut);
        assert_eq!(scan(&[left, right]).ok().as_deref(), expected, "{shown} cut at {cut}");
    }
}

#[test]
fn json_is_accepted() {
    check(b"{}", Some("{)"));
    check(b" [ ] ", Some("[)"));
    check(br#"{"a":{"b":[1,"x",true,null]}}"#, Some("{a:{b:[#.<x>#.#.)))"));
    check(b"0", Some("#."));
    check(b"-0.5e+10", Some("#."));
    check(b"[1E3,10,0,0.0,-1]", Some("[#.#.#.#.#.)"));
    check(br#""\"\\\/\b\f\n\r\t""#, Some("<\"\\/\u{8}\u{c}\n\r\t>"));
    check("\"h\u{e9}\u{20ac}\u{1f600}\u{7f}\"".as_bytes(), Some("<h\u{e9}\u{20ac}\u{1f600}\u{7f}>"));
    check(br#""\u0041\u00e9\ud83d\ude00""#, Some("<A\u{e9}\u{1f600}>"));
    check(br#""\ud83dx\ude00\ud83d\ud83d\ude00""#, Some("<\u{fffd}x\u{fffd}\u{fffd}\u{1f600}>"));
    check(br#"{"k\u0065y":1,"":2}"#, Some("{key:#.:#.)"));
    check(br#"{" \u0065 ":"  \n  ","  ":[" \n"]}"#, Some("{ e :<  \n  >  :[< \n>))"));
    check(br#"{"a":1,"a":2}"#, Some("{a:#.a:#.)"));
}

#[test]
fn what_is_not_json_is_refused() {
    let cases: [&[u8]; 47] = [
        b"",
        b" ",
        b"{",
        b"}",
        b"]",
        b"[}",
        b"{]",
        b"[1}",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b"{1:2}",
        b"{a:1}",
        b"{\"a\" 1}",
        b"{\"a\":1 \"b\":2}",
        b"1 2",
        b"{}{}",
        b"nul",
        b"nulll",
        b"True",
        b"NaN",
        b"-",
        b"01",
        b"-01",
        b"1.",
        b".5",
        b"1e",
        b"1e+",
        b"+1",
        b"0x1",
        b"\"",
        b"\"\\",
        b"\"\\x\"",
        b"\"\\u12g4\"",
        b"\"\\u123\"",
        b"\"a\nb\"",
        b"\"\n\"",
        b"{\"\n\":1}",
        b"[1,\" \t\"]",
        b"\"\x00\"",
        b"'a'",
        b"[1]//",
        b"\xef\xbb\xbf{}",
        b"\x0c1",
    ];
    for case in cases {
        check(case, None);
    }
}

#[test]
fn what_is_not_utf8_is_refused() {
    let cases: [&[u8]; 8] = [
        b"\"\xff\"",
        b"\"\xc3\"",
        b"\"\xe2\x82\"",
        b"\"\xc0\xaf\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xf5\x80\x80\x80\"",
        b"{\"\x80\":1}",
        b"\"\xe2\\u0041\"",
    ];
    for case in cases {
        check(case, None);
    }
}

#[test]
fn limits_hold() {
    let deep = "[".repeat(65);
    assert_eq!(scan(&[deep.as_bytes()]), Err(MaskErrorKind::TooDeep));
    let long = format!("{{\"{}\":1}}", "k".repeat(65));
    assert_eq!(scan(&[long.as_bytes()]), Err(MaskErrorKind::KeyTooLong));
    let split: Vec<&[u8]> = long.as_bytes().chunks(7).collect();
    assert_eq!(scan(&split), Err(MaskErrorKind::KeyTooLong));
}

#[test]
fn a_sequence_may_be_empty_or_long() {
    let mut scanner = Scanner::new(8, 8, true);
    let mut notes = Notes::default();
    scanner.push(b" {}\n{}[]1 ", &mut notes).unwrap();
    scanner.finish(&mut notes).unwrap();
    assert_eq!(notes.0, b"{){)[)#.");
    assert!(Scanner::new(8, 8, true).finish(&mut notes).is_ok());
}

proptest! {
    #[test]
    fn agrees_with_serde_json(text in "[\\[\\]{},:\"\\\\ 0-9a-fnrtu.+-]{0,24}", cut in 0usize..24) {
        let bytes = text.as_bytes();
        let cut = cut.min(bytes.len());
        let ours = scan(&[&bytes[..cut], &bytes[cut..]]);
        let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text);
        // serde_json refuses lone surrogates when it makes a string of them; as raw text both go by the grammar.
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}", text);
    }
}

/// Wants to know nothing of what is in containers but what stands at `n`, and is told of none but those it knows of.
struct Quietly {
    scope: Scope,
    /// The containers: what they are, and where the member or element begins whose value each is.
    open: Vec<(StateId, bool, usize)>,
    /// The key that came last: its state, and where it lies.
    key: (StateId, usize),
    /// How many strings it was told of.
    told: usize,
    /// Whether nothing comes of what is in a container: of documents of one chunk.
    remembers: bool,
    /// What is known of the automaton's states, where everything is searched.
    searched: Option<Vec<SearchedState>>,
}

/// In which of the places where everything is searched values may be passed over: strings and containers.
const SEARCHED: [Option<(Option<Option<Detector>>, bool)>; 5] = [
    None,
    Some((None, true)),
    Some((Some(None), true)),
    Some((Some(Some(Detector::Github)), true)),
    Some((Some(Some(Detector::Github)), false)),
];

impl Quietly {
    fn new(known: Option<(Option<Option<Detector>>, bool)>) -> Self {
        let scope = scope("{packs: [], rules: [{name: r, paths: ['**.n']}]}", &RequestInfo::default());
        let searched = known.map(|(strings, containers)| {
            let strings = strings.map(|wanted| wanted.map(|detector| DetectorSet::from_iter([detector])));
            vec![SearchedState { strings, containers }; scope.automaton().states()]
        });
        Self { scope, open: Vec::new(), key: (0, 1), told: 0, remembers: false, searched }
    }
}

impl Handler for Quietly {
    fn open(&mut self, at: usize, object: bool) {
        let (state, from) = match self.open.last() {
            Some((_, true, _)) => (self.key.0, self.key.1 - 1),
            Some((state, ..)) => (self.scope.automaton().element(*state), at),
            None => (Automaton::<Accept>::ROOT, at),
        };
        self.open.push((state, object, from));
    }
    fn close(&mut self, _: usize) -> Option<usize> {
        let (.., from) = self.open.pop().unwrap();
        self.remembers.then_some(from)
    }
    fn key(&mut self, key: &[u8], at: Option<usize>) {
        let state = self.open.last().unwrap().0;
        self.key = (self.scope.automaton().member(state, key), at.unwrap_or(1));
        // Where it begins is not known.
        self.remembers &= at.is_some();
    }
    fn open_string(&mut self, _: usize) -> Interest {
        self.told += 1;
        Interest::Nothing
    }
    fn glance(&mut self, _: &[u8]) -> Result<bool, MaskErrorKind> {
        Ok(true)
    }
    fn look_at_string(&mut self, _: usize) -> Interest {
        Interest::Nothing
    }
    fn text(&mut self, _: &[u8]) -> Result<(), MaskErrorKind> {
        Ok(())
    }
    fn close_string(&mut self, _: usize) -> Result<(), MaskErrorKind> {
        Ok(())
    }
    fn open_scalar(&mut self, _: usize, _: Scalar) -> Interest {
        Interest::Nothing
    }
    fn close_scalar(&mut self, _: usize) -> Result<(), MaskErrorKind> {
        Ok(())
    }
    fn quiet(&self) -> Option<Quiet<'_>> {
        let wanted = DetectorSet::from_iter([Detector::Email]);
        let searched = self.searched.as_deref().map(|states| Search { states, rules: 1, wanted });
        Some(Quiet { automaton: self.scope.automaton(), state: self.open.last()?.0, searched })
    }
    fn passed_over(&mut self, levels: &[Level]) {
        self.open.extend(levels.iter().skip(1).map(|level| (level.state, level.object, level.from)));
    }
}

/// Whether it is JSON of at most 7 levels with keys of at most 3 bytes, and if not, why.
fn judge(chunks: &[&[u8]], handler: &mut impl Handler) -> Result<(), MaskErrorKind> {
    let mut scanner = Scanner::new(7, 3, false);
    // Of a key that is too long and no text, either may be said: it depends on how it is cut.
    let kind = |error: MaskError| match error.kind() {
        MaskErrorKind::Malformed("not UTF-8") => MaskErrorKind::KeyTooLong,
        kind => kind,
    };
    for chunk in chunks {
        scanner.push(chunk, handler).map_err(kind)?;
    }
    scanner.finish(handler).map_err(kind)
}

#[test]
fn what_was_read_and_came_to_nothing_is_not_told_again() {
    const READ: &str = r#"{"a":[{"n":"of no consequence"},{"b":"x"}],"c":[0.5]}"#;
    let other = READ.replace("of no", "OF NO");
    for (remembers, again, told) in [(false, READ, 5), (true, READ, 1), (true, &other, 2)] {
        let json = [READ, again, READ, again, READ].join(",") + "]";
        let mut quietly = Quietly { remembers, ..Quietly::new(None) };
        judge(&[b"[0,", json.as_bytes()], &mut quietly).unwrap();
        assert_eq!(quietly.told, told, "{json}");
    }
}

/// Six levels, and nothing in it that is not plain.
const PLAIN: &str = r#"{"a":{"b":[1,2,{"c":[[],"x"]},300],"c":"text"},"b":[true,{"a":null},"y"],"abc":-1,"d":{"e":{"f":[{}]}},"e":[]}"#;
const NESTED: &str = r#"{"a":[1,-20,{"b":{},"c":[],"d":[[[]]],"":"x\"y"},"é","a@b.example",true,false,null,0.5,1e3],"abc":{"d":{"e":""}}}"#;

proptest! {
    /// The same again and again, also deeper, with something else in it now and then: what is passed over because it was before.
    #[test]
    fn what_is_passed_over_again_is_judged_like_the_rest(
        items in prop::collection::vec((0usize..4, any::<prop::sample::Index>(), r#"[\]\[{}:,"\\a0.e é\n-]{0,2}"#, 0usize..3), 2..9),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut json = b"[".to_vec();
        for (nth, (how, at, insert, remove)) in items.iter().enumerate() {
            let mut item = PLAIN.as_bytes().to_vec();
            match how {
                0 => {}
                1 => item = NESTED.as_bytes().to_vec(),
                2 => item = [b"[", item.as_slice(), b"]"].concat(),
                _ => {
                    let at = at.index(item.len());
                    item.splice(at..item.len().min(at + remove), insert.bytes());
                }
            }
            json.extend_from_slice(if nth > 0 { b"," } else { b"" });
            json.extend(item);
        }
        json.push(b']');
        let expected = judge(&json.chunks(1).collect::<Vec<_>>(), &mut Notes::default());
        for known in SEARCHED {
            let judged = judge(&chunks(&json, &cuts), &mut Quietly::new(known));
            prop_assert_eq!(judged, expected, "{:?}: {}", known, String::from_utf8_lossy(&json));
            // The document may count as long from its second chunk on.
            let mut remembering = Quietly { remembers: true, ..Quietly::new(known) };
            let judged = judge(&[b" ", &json], &mut remembering);
            prop_assert_eq!(judged, expected, "{:?}: {}", known, String::from_utf8_lossy(&json));
        }
    }

    #[test]
    fn what_is_passed_over_is_judged_like_the_rest(
        edits in prop::collection::vec((any::<prop::sample::Index>(), r#"[\]\[{}:,"\\a0.e é\n-]{0,2}"#, 0usize..3), 0..3),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut json = NESTED.as_bytes().to_vec();
        for (at, insert, remove) in edits {
            let at = at.index(json.len());
            json.splice(at..json.len().min(at + remove), insert.bytes());
        }
        let (left, right) = json.split_at(cut.index(json.len() + 1));
        let expected = judge(&json.chunks(1).collect::<Vec<_>>(), &mut Notes::default());
        for chunks in [&[json.as_slice()][..], &[left, right]] {
            for known in SEARCHED {
                let mut quietly = Quietly::new(known);
                let judged = judge(chunks, &mut quietly);
                prop_assert_eq!(judged, expected, "{:?}: {}", known, String::from_utf8_lossy(&json));
            }
        }
    }
}
