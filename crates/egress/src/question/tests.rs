use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::prop_oneof;

use super::testing::{A, answered, asks, with_options};
use super::{BLOCKED_TEXT, Code, Message, Question};

fn question(message: &[u8]) -> Question {
    match Message::read(message) {
        Message::Question(question) => question,
        other => panic!("{other:?}"),
    }
}

/// The code of what is said to `message` without asking anybody.
fn code(message: &[u8]) -> Option<u8> {
    match Message::read(message) {
        Message::Odd(answer) => {
            assert_eq!((&answer[..2], answer[2] & 0x80), (&message[..2], 0x80));
            Some(answer[3] & 0x0f)
        }
        _ => None,
    }
}

#[test]
fn a_question_is_known_by_its_name_whatever_it_asks_for() {
    for kind in [A, 28, 16, 65, 255] {
        for (name, known) in [
            ("a.com", Some("a.com")),
            ("A.cOm", Some("a.com")),
            ("_sip._tcp.a.com", Some("_sip._tcp.a.com")),
            // The name of no host, or of an address.
            ("a\\com", None),
            ("evil.net\\a.com", None),
            ("a b.com", None),
            ("b\u{fc}cher.de", None),
            ("1.2.3.4", None),
        ] {
            let message = asks(7, name, kind);
            let read = question(&message);
            assert_eq!(read.name().map(|name| name.as_str()), known, "{name}");
            assert_eq!(read.message(), message, "as it is");
            let message = with_options(message, b"\0\x0a\0\x08cookies!");
            assert_eq!(question(&message).message(), message);
        }
    }
    let root = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0, 0, 2, 0, 1]].concat();
    assert_eq!(question(&root).name(), None);
}

#[test]
fn what_is_not_one_question_and_nothing_else_is_not_passed_on() {
    let good = asks(7, "a.com", A);
    let edited = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    for (message, said, what) in [
        (edited(5, 2), 1, "two questions"),
        (edited(5, 0), 1, "none"),
        (edited(7, 1), 1, "an answer"),
        (edited(9, 1), 1, "an authority"),
        (edited(11, 1), 1, "a record that is not there"),
        ([&good[..], b"x"].concat(), 1, "more"),
        (good[..good.len() - 1].to_vec(), 1, "less"),
        (edited(12, 0xc0), 1, "a pointer"),
        (edited(12, 64), 1, "a long label"),
        (with_options(with_options(good.clone(), b""), b""), 1, "options twice"),
        (with_options(good.clone(), b"x")[..good.len() + 11].to_vec(), 1, "half of the options"),
        (asks(7, &["a"; 128].join("."), A), 1, "a long name"),
        (edited(2, 0x28), 4, "a change"),
        (asks(7, "a.com", 252), 4, "all of a zone"),
    ] {
        assert_eq!(code(&message), Some(said), "{what}");
    }
    let mut second = good.clone();
    second[5] = 2;
    second.extend(&good[12..]);
    assert_eq!(code(&second), Some(1), "a second one behind");
    for noise in [&good[..11], b"", &answered(&good, "")] {
        assert_eq!(Message::read(noise), Message::Noise);
    }
}

#[test]
fn what_is_said_instead_has_the_question_as_it_was() {
    let message = asks(0xabcd, "eViL.com", A);
    let no = question(&message).reply(Code::NoSuchName);
    assert_eq!(no[..12], [0xab, 0xcd, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(no[12..], message[12..], "not a letter is another");
    let why = question(&with_options(message.clone(), b"")).reply(Code::NoSuchName);
    let options = &why[message.len()..];
    assert_eq!((why[11], &options[..3]), (1, &[0, 0, 41][..]));
    assert_eq!(options[11..13], [0, 15], "an extended error");
    assert_eq!(options[15..17], [0, 15], "blocked");
    assert_eq!(&options[17..], BLOCKED_TEXT.as_bytes());
    let failed = question(&with_options(message.clone(), b"")).reply(Code::Failed);
    assert_eq!((failed[3], failed.len()), (0x82, message.len() + 11), "no reason");
    let cut = question(&message).cut_short();
    assert_eq!(cut[..4], [0xab, 0xcd, 0x83, 0x80]);
    let longest = [63, 63, 63, 61].map(|len| "a".repeat(len)).join(".");
    let longest = question(&with_options(asks(7, &longest, A), b""));
    assert!(longest.reply(Code::NoSuchName).len() <= 512, "every program has room for that");
}

#[test]
fn an_answer_is_known_by_its_id() {
    let message = asks(0xabcd, "a.com", A);
    let (asked, mut answer) = (question(&message), answered(&message, "x"));
    assert!(asked.is_answered_by(&answer) && !asked.is_answered_by(&message));
    assert!(asked.is_answered_by(&answer[..12]) && !asked.is_answered_by(&answer[..11]));
    answer[1] ^= 1;
    assert!(!asked.is_answered_by(&answer));
}

proptest! {
    /// Whatever a sandbox sends: what is passed on is what came, under a name that is in it, and what
    /// is said is for whoever asked.
    #[test]
    fn any_message_is_read_to_an_end(bytes in messages()) {
        match Message::read(&bytes) {
            Message::Noise => {}
            Message::Odd(answer) => prop_assert_eq!(&answer[..2], &bytes[..2]),
            Message::Question(question) => {
                prop_assert_eq!(question.message(), &bytes[..]);
                let no = question.reply(Code::NoSuchName);
                prop_assert!(question.is_answered_by(&no) && no.len() <= 512);
                if let Some(name) = question.name() {
                    let again = asks(0, name.as_str(), 0);
                    let (from, to) = (12, again.len() - 4);
                    prop_assert!(bytes[from..to].eq_ignore_ascii_case(&again[from..to]));
                }
            }
        }
    }
}

/// Random bytes would hardly ever be a question.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..100);
    let good = prop_oneof![Just("a.com"), Just("x.y-z.example"), Just("evil.net\\a.com")];
    let good = (good, any::<u16>(), any::<bool>()).prop_map(|(name, kind, has_options)| {
        let message = asks(7, name, kind);
        if has_options { with_options(message, b"\0\x03\0\0") } else { message }
    });
    let damaged = (good.clone(), 0_usize..64, any::<u8>(), 0_usize..8).prop_map(
        |(mut message, at, byte, cut)| {
            let at = at % message.len();
            message[at] = byte;
            message.truncate(message.len() - cut);
            message
        },
    );
    prop_oneof![noise, good, damaged]
}
