//! Cookie names that look like ours, to a parser that decodes, trims, folds, unquotes or guesses.

use std::collections::BTreeSet;

use crate::setup::{Kind, Request, World, on_every_backend};

const NAME: &[u8; 9] = b"__Host-id";

on_every_backend!(
    no_spelling_of_the_name_but_its_own_opens_the_session_or_hides_it,
    no_spelling_of_the_value_but_its_own_opens_the_session,
    no_duplicate_opens_the_session,
);

async fn no_spelling_of_the_name_but_its_own_opens_the_session_or_hides_it(world: World) {
    let token = world.signed_in("alice").await.token().to_owned();
    let genuine = [NAME.as_slice(), b"=", token.as_bytes()].concat();
    let spoofs = spoofed_pairs(token.as_bytes());
    assert!(spoofs.len() > 1500, "only {}", spoofs.len());
    for spoof in &spoofs {
        let shown = spoof.escape_ascii();
        world.spy.forget_calls();
        assert!(!opens(&world, &[spoof]).await, "{shown}");
        assert_eq!(world.spy.reads(), 0, "the store was asked about {shown}");
        assert!(opens(&world, &[spoof, &genuine]).await, "{shown} hides the genuine one");
        assert!(
            opens(&world, &[&[&genuine, b";".as_slice(), spoof].concat()]).await,
            "{shown} hides the genuine one before it"
        );
    }
    // What surrounds the pair is no part of it.
    for (before, after) in [("", ""), (" ", " "), ("\t", "\t"), ("a=b; ", "; c=d"), ("a=b;", ";"), (";; ", " \t ;")] {
        let header = [before.as_bytes(), &genuine, after.as_bytes()].concat();
        assert!(opens(&world, &[&header]).await, "{}", header.escape_ascii());
    }
}

async fn no_spelling_of_the_value_but_its_own_opens_the_session(world: World) {
    let token = world.signed_in("alice").await.token().to_owned();
    let token = token.as_bytes();
    let mut values = BTreeSet::new();
    for filler in fillers() {
        values.insert([&filler, token].concat());
        // Space at the end of a pair belongs to the header.
        if filler != b" " && filler != b"\t" {
            values.insert([token, &filler].concat());
        }
    }
    for place in 0..token.len() {
        values.insert([&token[..place], &percent(token[place], false), &token[place + 1..]].concat());
        values.insert([&token[..place], b" ", &token[place..]].concat());
    }
    for (before, after) in
        [("\"", "\""), ("'", "'"), ("=", ""), ("", "="), ("", "=="), ("", ","), ("", ",x"), ("x,", "")]
    {
        values.insert([before.as_bytes(), token, after.as_bytes()].concat());
    }
    values.remove(token);
    assert!(values.len() > 200, "only {}", values.len());
    for value in &values {
        let pair = [NAME.as_slice(), b"=", value].concat();
        assert!(!opens(&world, &[&pair]).await, "{}", pair.escape_ascii());
    }
    assert!(opens(&world, &[&[NAME.as_slice(), b"=", token].concat()]).await);
}

async fn no_duplicate_opens_the_session(world: World) {
    let token = world.signed_in("alice").await.token().to_owned();
    let genuine = format!("__Host-id={token}");
    for other in [genuine.as_str(), "__Host-id=", "__Host-id=x", "__Host-id==", &format!("__Host-id=\"{token}\"")] {
        for pair in [[&genuine, other], [other, &genuine]] {
            for glue in [";", "; ", ";\t", ";;", "; a=b; ", "; __Host-id ; "] {
                assert!(!opens(&world, &[pair.join(glue).as_bytes()]).await, "{pair:?} with {glue:?}");
            }
            assert!(!opens(&world, &pair.map(str::as_bytes)).await, "{pair:?} in two headers");
            assert!(!opens(&world, &[pair[0].as_bytes(), b"a=b", pair[1].as_bytes()]).await, "{pair:?} apart");
        }
    }
    assert!(opens(&world, &[b"a=b", genuine.as_bytes()]).await);
}

async fn opens(world: &World, headers: &[&[u8]]) -> bool {
    // Thousands of headers: what carries them there need not be tried again around every store.
    let request = if world.kind == Kind::Memory {
        Request::open(&world.manager, headers.iter().copied()).await
    } else {
        Request::in_core(&world.manager, headers).await
    };
    let request = request.unwrap();
    request.session.handle().is_some()
}

/// Pairs that carry the token under a name that is not ours.
fn spoofed_pairs(token: &[u8]) -> BTreeSet<Vec<u8>> {
    let pair = |name: &[u8]| [name, b"=", token].concat();
    let mut pairs: BTreeSet<_> = spoofed_names().iter().map(|name| pair(name)).collect();
    // Other signs between name and value, or none, and a name that is part of the value.
    for sign in ["", " ", "\t", ":", "%3D", "%3d", "\u{ff1d}", "+", "&", "\\="] {
        pairs.insert([NAME.as_slice(), sign.as_bytes(), token].concat());
    }
    for before in [
        "=",
        "==",
        " = ",
        "a=",
        "a= ",
        "=a; =",
        ",",
        ", ",
        "a=b,",
        "a=b, ",
        "a=b ,",
        "a=b&",
        "a=b\n",
        "a=b\r\n",
        "a=\"",
        "$",
        "$Version=1,",
        "$Version=1, ",
        "$Version=\"1\", ",
        "$Version=\"1\",",
        "$Version=0 ",
        "$Version=1 $Path=/ ",
        "$Version=1; $Path=\"/\", ",
        "Cookie: ",
        "cookie:",
        "Cookie=",
        "Set-Cookie: ",
    ] {
        pairs.insert([before.as_bytes(), &pair(NAME)].concat());
        pairs.insert([before.as_bytes(), &pair(NAME), b"; $Path=\"/\"; $Domain=\"localhost\""].concat());
    }
    pairs.insert(NAME.to_vec());
    pairs.insert(token.to_vec());
    pairs.insert([b"=", token].concat());
    pairs.insert([b"\"", pair(NAME).as_slice(), b"\""].concat());
    pairs
}

fn spoofed_names() -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    // Every choice of letters: percent-encoded in both cases, in the other case, as overlong UTF-8.
    for choice in 0_u32..1 << NAME.len() {
        let spell = |spelling: fn(u8) -> Vec<u8>| {
            let letters = NAME.iter().enumerate();
            letters
                .flat_map(|(n, letter)| if choice >> n & 1 == 1 { spelling(*letter) } else { vec![*letter] })
                .collect()
        };
        names.insert(spell(|letter| percent(letter, false)));
        names.insert(spell(|letter| percent(letter, true)));
        names.insert(spell(|letter| vec![letter ^ if letter.is_ascii_alphabetic() { 0x20 } else { 0 }]));
        names.insert(spell(|letter| vec![0xc0 | letter >> 6, 0x80 | letter & 0x3f]));
        names.insert(spell(|letter| char::from_u32(u32::from(letter) + 0xfee0).unwrap().to_string().into()));
    }
    // Everything that some parser takes for nothing, before, after, around and within.
    for filler in fillers() {
        // Space before a pair belongs to the header.
        if filler != b" " && filler != b"\t" {
            names.insert([&filler, NAME.as_slice()].concat());
        }
        names.insert([NAME.as_slice(), &filler].concat());
        names.insert([&filler, NAME.as_slice(), &filler].concat());
        for place in 1..NAME.len() {
            names.insert([&NAME[..place], &filler, &NAME[place..]].concat());
        }
    }
    for name in [
        "\"__Host-id\"",
        "'__Host-id'",
        "\\\"__Host-id\\\"",
        "`__Host-id`",
        "(__Host-id)",
        "<__Host-id>",
        "[__Host-id]",
        "__Host-id[]",
        "__Host-id[0]",
        "__Host-id.",
        "__Host-id.x",
        "__Host-idx",
        "x__Host-id",
        "___Host-id",
        "_Host-id",
        "__Host_id",
        "__Host-i",
        "__Host-",
        "__Host",
        "__Secure-id",
        "Host-id",
        "id",
        "__Host.id",
        "__H\u{43e}st-id",
        "__Host\u{2010}id",
        "__Host\u{2013}id",
        "__Host\u{ad}-id",
        "__Ho\u{17f}t-id",
        "__Host-\u{131}d",
        "__Host-i\u{307}d",
        "\\u005f_Host-id",
        "\\x5f_Host-id",
        "&#95;_Host-id",
        "=?utf-8?Q?__Host-id?=",
        "__Host-id*",
        "__Host-id*0",
    ] {
        names.insert(name.as_bytes().to_vec());
    }
    names.insert(NAME.iter().flat_map(|letter| [0, *letter]).collect());
    names.insert(NAME.iter().flat_map(|letter| [*letter, 0]).collect());
    names.remove(NAME.as_slice());
    names
}

/// White space of every sort, control bytes, quotes and marks.
fn fillers() -> Vec<Vec<u8>> {
    let unicode =
        ['\u{a0}', '\u{85}', '\u{1680}', '\u{180e}', '\u{2028}', '\u{2029}', '\u{202f}', '\u{205f}', '\u{2060}'];
    let unicode = unicode.into_iter().chain('\u{2000}'..='\u{200f}').chain(['\u{3000}', '\u{feff}']);
    let controls = (0..=0x1f).chain([b' ', 0x7f, 0x85, 0xa0, 0xff]).map(|byte| vec![byte]);
    let marks =
        ["\"", "'", "\\", "+", "%20", "%09", "%00", "%0a", "%0D%0A", "&nbsp"].map(|mark| mark.as_bytes().to_vec());
    unicode.map(|space| space.to_string().into_bytes()).chain(controls).chain(marks).collect()
}

fn percent(letter: u8, lower: bool) -> Vec<u8> {
    if lower { format!("%{letter:02x}") } else { format!("%{letter:02X}") }.into_bytes()
}
