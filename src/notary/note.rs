//! Signed notes: text with Ed25519 signatures below it, in the C2SP form (signed-note v1.0.0) that transparency logs share.
//!
//! ```text
//! text, in whole lines
//!
//! — {key name} {base64 of the key's id and the signature}
//! ```
//!
//! Why this is not a library's: `docs/architecture.md`, "What is written by hand".
//!
//! Keys are written as Go's `golang.org/x/mod/sumdb/note` writes them, so that other tools take them as they are:
//! `{name}+{id}+{base64}`, and a secret one with `PRIVATE+KEY+` before that.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The type of a signature: Ed25519, with the message as it is.
const ED25519: u8 = 1;

/// What a line of a signature begins with.
const DASH: &str = "— ";

/// What a secret key begins with.
pub const SECRET: &str = "PRIVATE+KEY+";

/// Bytes of a note at most, and signatures below it. A note of ours has some 300 bytes.
pub const MAX_NOTE_BYTES: usize = 64 * 1024;
const MAX_SIGNATURES: usize = 64;

/// The name of a key, without spaces and `+`. A URL without its scheme is unique, and so a good name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName(String);

impl KeyName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is not a key, or not the name of one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidKey {
    /// The name is empty or too long, or has a character that ends it in a note.
    #[error("a key's name has 1 to 200 bytes, without spaces and without `+`")]
    Name,
    /// It does not have three parts.
    #[error("a key is written as name+id+base64")]
    Form,
    /// The second part is no key id.
    #[error("the second part of a key is its id, 8 hexadecimal digits")]
    Id,
    /// The third part is not base64.
    #[error("the third part of a key is base64")]
    Base64,
    /// The third part is the key of another algorithm, or of another length.
    #[error("not an Ed25519 key of a signed note: those have 32 bytes after the algorithm's number, 1")]
    Algorithm,
    /// The id is not the one that name and key have.
    #[error("the id does not match the name and the key: a character was changed or lost")]
    WrongId,
    /// The bytes are no point of the curve.
    #[error("not an Ed25519 public key")]
    Point,
    /// A secret key where a public one is expected.
    #[error("this is a secret key; the public one belongs here")]
    Secret,
    /// A secret key is expected.
    #[error("a secret key begins with PRIVATE+KEY+")]
    NotSecret,
}

impl FromStr for KeyName {
    type Err = InvalidKey;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.len() > 200 || name.contains(bad) {
            return Err(InvalidKey::Name);
        }
        Ok(Self(name.to_owned()))
    }
}

/// What a note names a key by, besides its name: the start of a hash over both.
type KeyId = [u8; 4];

fn id_of(name: &KeyName, public: &[u8; 32]) -> KeyId {
    let hash = Sha256::new().chain_update(name.as_str()).chain_update([b'\n', ED25519]).chain_update(public);
    let hash: [u8; 32] = hash.finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Name, id and the 32 bytes of a key from its written form.
fn read_key(text: &str) -> Result<(KeyName, KeyId, [u8; 32]), InvalidKey> {
    let mut parts = text.trim().splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(InvalidKey::Form);
    };
    let id = u32::from_str_radix(id, 16).ok().filter(|_| id.len() == 8);
    let id = id.ok_or(InvalidKey::Id)?.to_be_bytes();
    let key = STANDARD.decode(key).map_err(|_| InvalidKey::Base64)?;
    match key.split_first() {
        Some((&ED25519, key)) => {
            let key = key.try_into().map_err(|_| InvalidKey::Algorithm)?;
            Ok((name.parse()?, id, key))
        }
        _ => Err(InvalidKey::Algorithm),
    }
}

fn write_key(f: &mut fmt::Formatter<'_>, name: &KeyName, id: KeyId, key: &[u8; 32]) -> fmt::Result {
    let mut bytes = vec![ED25519];
    bytes.extend(key);
    write!(f, "{}+{:08x}+{}", name.as_str(), u32::from_be_bytes(id), STANDARD.encode(bytes))
}

/// The public half of a key, which verifies signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    name: KeyName,
    id: KeyId,
    key: ed25519_dalek::VerifyingKey,
}

impl PublicKey {
    fn new(name: KeyName, key: ed25519_dalek::VerifyingKey) -> Self {
        Self { id: id_of(&name, key.as_bytes()), name, key }
    }

    /// Its name.
    pub const fn name(&self) -> &KeyName {
        &self.name
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_key(f, &self.name, self.id, self.key.as_bytes())
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().starts_with(SECRET) {
            return Err(InvalidKey::Secret);
        }
        let (name, id, bytes) = read_key(text)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| InvalidKey::Point)?;
        let public = Self::new(name, key);
        if public.id == id { Ok(public) } else { Err(InvalidKey::WrongId) }
    }
}

/// The secret half. It is never shown by mistake: only [`SecretKey::reveal`] writes it.
#[derive(Clone)]
pub struct SecretKey {
    public: PublicKey,
    key: ed25519_dalek::SigningKey,
}

impl SecretKey {
    /// The key of this name that 32 random bytes make.
    pub fn new(name: KeyName, seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        Self { public: PublicKey::new(name, key.verifying_key()), key }
    }

    /// The public half.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// As it is written into a file that only its owner reads.
    pub fn reveal(&self) -> String {
        struct Revealed<'a>(&'a SecretKey);
        impl fmt::Display for Revealed<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let SecretKey { public, key } = self.0;
                write_key(f, &public.name, public.id, key.as_bytes())
            }
        }
        format!("{SECRET}{}", Revealed(self))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret key of {}", self.public)
    }
}

impl FromStr for SecretKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = text.trim().strip_prefix(SECRET).ok_or(InvalidKey::NotSecret)?;
        let (name, id, seed) = read_key(key)?;
        let secret = Self::new(name, &seed);
        if secret.public.id == id { Ok(secret) } else { Err(InvalidKey::WrongId) }
    }
}

/// One signature below a note.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NoteSignature {
    name: KeyName,
    id: KeyId,
    /// Of whatever kind: those of unknown keys are passed over.
    signature: Vec<u8>,
}

/// Text, and who signed it. Nothing is known of its signatures until [`Note::verified_by`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// Why a note is not verified.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// It has no signature by any of the given keys.
    #[error("none of the keys given has signed it")]
    NoTrustedKey,
    /// A signature names one of the given keys and is not valid.
    #[error("the signature of {} is not of this text", .0.as_str())]
    InvalidSignature(KeyName),
}

impl Note {
    /// Signs text, which is made of whole lines.
    pub fn sign(text: String, keys: &[SecretKey]) -> Self {
        let sign = |key: &SecretKey| NoteSignature {
            name: key.public.name.clone(),
            id: key.public.id,
            signature: key.key.sign(text.as_bytes()).to_bytes().to_vec(),
        };
        Self { signatures: keys.iter().map(sign).collect(), text }
    }

    /// Its text, which is not verified.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first of these keys that has signed it. A signature that names one of them and is not its own spoils the note.
    pub fn verified_by<'a>(&self, keys: &'a [PublicKey]) -> Result<&'a PublicKey, VerifyError> {
        let mut signer = None;
        for signed in &self.signatures {
            let named = |key: &&PublicKey| key.name == signed.name && key.id == signed.id;
            let Some(key) = keys.iter().find(named) else { continue };
            let signature = Signature::from_slice(&signed.signature).ok();
            let verified = signature.is_some_and(|s| key.key.verify_strict(self.text.as_bytes(), &s).is_ok());
            if !verified {
                return Err(VerifyError::InvalidSignature(signed.name.clone()));
            }
            signer = signer.or(Some(key));
        }
        signer.ok_or(VerifyError::NoTrustedKey)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for NoteSignature { name, id, signature } in &self.signatures {
            let bytes = [id.as_slice(), signature].concat();
            writeln!(f, "{DASH}{} {}", name.as_str(), STANDARD.encode(bytes))?;
        }
        Ok(())
    }
}

/// A text is not a signed note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidNote {
    /// It exceeds [`MAX_NOTE_BYTES`].
    #[error("a note has at most {MAX_NOTE_BYTES} bytes")]
    TooLong,
    /// It has a control character besides the newline.
    #[error("a note has no control characters")]
    ControlCharacter,
    /// There is no empty line with signatures below it.
    #[error("it has no signatures")]
    NoSignatures,
    /// The last newline is missing.
    #[error("its last line has no newline")]
    NoNewline,
    /// A line below the text is not in the form of a signature.
    #[error("a line below the text is no signature")]
    Signature,
    /// There are too many signatures.
    #[error("a note has at most {MAX_SIGNATURES} signatures")]
    TooManySignatures,
}

impl FromStr for Note {
    type Err = InvalidNote;

    fn from_str(note: &str) -> Result<Self, Self::Err> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(InvalidNote::TooLong);
        }
        if note.contains(|c: char| c < ' ' && c != '\n') {
            return Err(InvalidNote::ControlCharacter);
        }
        let (before, signatures) = note.rsplit_once("\n\n").ok_or(InvalidNote::NoSignatures)?;
        let signatures = signatures.strip_suffix('\n').ok_or(InvalidNote::NoNewline)?;
        let signatures = signatures.split('\n').map(read_signature).collect::<Option<Vec<_>>>();
        let signatures = signatures.ok_or(InvalidNote::Signature)?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(InvalidNote::TooManySignatures);
        }
        Ok(Self { text: format!("{before}\n"), signatures })
    }
}

fn read_signature(line: &str) -> Option<NoteSignature> {
    let (name, bytes) = line.strip_prefix(DASH)?.split_once(' ')?;
    let bytes = STANDARD.decode(bytes).ok()?;
    let (id, signature) = bytes.split_first_chunk::<4>()?;
    Some(NoteSignature { name: name.parse().ok()?, id: *id, signature: signature.to_vec() })
}

#[cfg(test)]
mod tests;
