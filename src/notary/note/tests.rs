//! Unit tests of signed notes.

use super::*;
use proptest::prelude::*;

/// The example of the specification of Go's package `note`.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const SIGNED: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n\n\
    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::new(name.parse().unwrap(), &[seed; 32])
}

#[test]
fn a_note_of_others_is_read_and_verified() {
    let peter: PublicKey = PETER.parse().unwrap();
    assert_eq!(peter.to_string(), PETER);
    let note: Note = SIGNED.parse().unwrap();
    assert_eq!(note.to_string(), SIGNED);
    assert_eq!(note.verified_by(std::slice::from_ref(&peter)), Ok(&peter));
    let other: Note = SIGNED.replace("answer", "question").parse().unwrap();
    assert_eq!(
        other.verified_by(std::slice::from_ref(&peter)),
        Err(VerifyError::InvalidSignature(peter.name.clone()))
    );
}

#[test]
fn who_signed_is_told_by_name_and_id() {
    let (ours, theirs, same_name) =
        (key("a.example/log", 1), key("b.example/log", 2), key("a.example/log", 3));
    let note = Note::sign("text\n\nmore\n".to_owned(), &[ours.clone(), theirs.clone()]);
    let note: Note = note.to_string().parse().unwrap();
    assert_eq!(note.text(), "text\n\nmore\n");
    let by = |keys: &[&SecretKey]| {
        let keys: Vec<_> = keys.iter().map(|key| key.public().clone()).collect();
        note.verified_by(&keys).map(|key| key.name().as_str().to_owned())
    };
    assert_eq!(by(&[&theirs]).as_deref(), Ok("b.example/log"));
    assert_eq!(by(&[&same_name, &ours]).as_deref(), Ok("a.example/log"));
    assert_eq!(by(&[&same_name]), Err(VerifyError::NoTrustedKey));
    assert_eq!(by(&[]), Err(VerifyError::NoTrustedKey));
}

#[test]
fn keys_are_written_and_read_and_not_mixed_up() {
    let secret = key("example.com/tidings", 7);
    let revealed = secret.reveal();
    assert_eq!(revealed.parse::<SecretKey>().unwrap().public(), secret.public());
    assert_eq!(secret.public().to_string().parse::<PublicKey>().as_ref(), Ok(secret.public()));
    assert!(!format!("{secret:?}").contains(revealed.rsplit('+').next().unwrap()));
    assert_eq!(revealed.parse::<PublicKey>(), Err(InvalidKey::Secret));
    assert!(secret.public().to_string().parse::<SecretKey>().is_err());
    let public = secret.public().to_string();
    let other_id = public.replacen(&public[20..28], "00000000", 1);
    for bad in ["", "a+b", "a+00000000+AQ==", &other_id, &public.replace("example", "exa mple")] {
        assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
    }
}

#[test]
fn what_is_no_note_is_refused() {
    for bad in [
        "",
        "text\n",
        "text\n\n",
        "text\n\nno dash\n",
        "text\n\n— name\n",
        "a\tb\n\n— n AAAAAAA=\n",
        "text\n\n— n AAAAAAA=",
    ] {
        assert!(bad.parse::<Note>().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        if let Ok(note) = text.parse::<Note>() {
            prop_assert_eq!(note.to_string(), text);
        }
    }
}
