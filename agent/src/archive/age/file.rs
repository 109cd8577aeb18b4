//! One file: a header that hands the file's key to its recipients, then the contents in chunks, each authenticated with
//! its number and whether it is the last one (<https://c2sp.org/age>).

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

use super::{AgeError, Identity, Recipient};

/// The first line.
const VERSION: &str = "age-encryption.org/v1\n";
/// The kind of recipient that is an X25519 key, and what its stanza begins with.
const KIND: &str = "X25519";
/// What a stanza begins with.
const STANZA: &str = "-> ";
/// What ends the header, before its authentication.
const END: &str = "---";
/// Columns of a stanza's body; a shorter line ends it.
const COLUMNS: usize = 64;
/// More recipients than anybody writes: each costs a computation.
const RECIPIENTS: usize = 32;
/// Plain bytes of a chunk.
const CHUNK: usize = 64 << 10;
/// What authenticates a chunk.
const TAG: usize = 16;
/// What makes the key of the contents another one in each file.
const NONCE: usize = 16;

type FileKey = [u8; 16];

/// A file that these recipients can read.
pub(super) fn encrypt(
    plain: &[u8],
    recipients: impl IntoIterator<Item = Recipient>,
) -> Result<Vec<u8>, AgeError> {
    let (file_key, nonce): (FileKey, [u8; NONCE]) = (random()?, random()?);
    let mut header = VERSION.to_owned();
    for recipient in recipients {
        header += &wrap(&file_key, recipient, random()?)?;
    }
    header += END;
    let mac = hmac::sign(&header_key(&file_key)?, header.as_bytes());
    header = format!("{header} {}\n", BASE64.encode(mac));
    let chunks = plain.len() / CHUNK + 1;
    let mut file = Vec::with_capacity(header.len() + NONCE + plain.len() + chunks * TAG);
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&nonce);
    seal(&payload_key(&file_key, &nonce)?, plain, &mut file)?;
    Ok(file)
}

/// What a file says, if one of these can read it and nothing of it was changed.
pub(super) fn decrypt(file: &[u8], identities: &[&Identity]) -> Result<Vec<u8>, AgeError> {
    let (header, rest) = Header::parse(file).ok_or(AgeError::Damaged("header"))?;
    let opened = |stanza: &Stanza| identities.iter().find_map(|identity| opened_by(identity, stanza));
    let file_key = header.stanzas.iter().find_map(opened);
    let file_key = file_key.ok_or(AgeError::OtherIdentity(identities.len()))?;
    hmac::verify(&header_key(&file_key)?, header.signed, &header.mac)
        .map_err(|_| AgeError::Damaged("header"))?;
    let (nonce, chunks) = rest.split_at_checked(NONCE).ok_or(AgeError::Damaged("length"))?;
    open(&payload_key(&file_key, nonce)?, chunks)
}

/// The file's key for one recipient.
struct Stanza {
    share: [u8; 32],
    body: [u8; 32],
}

struct Header<'a> {
    /// What the end of the header authenticates.
    signed: &'a [u8],
    mac: Vec<u8>,
    stanzas: Vec<Stanza>,
}

impl<'a> Header<'a> {
    /// The header, and what follows it.
    fn parse(file: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut rest = file.strip_prefix(VERSION.as_bytes())?;
        let mut stanzas = Vec::new();
        for _ in 0..=RECIPIENTS {
            let line = next_line(&mut rest)?;
            if let Some(mac) = line.strip_prefix(END) {
                let after = mac.len() + 1;
                let signed = &file[..file.len() - rest.len() - after];
                let mac = BASE64.decode(mac.strip_prefix(' ')?).ok()?;
                return Some((Self { signed, mac, stanzas }, rest));
            }
            let (kind, arguments) = line.strip_prefix(STANZA)?.split_once(' ').unwrap_or((line, ""));
            let body = body(&mut rest)?;
            // Other kinds are for other identities.
            if kind == KIND {
                let share = BASE64.decode(arguments).ok()?.try_into().ok()?;
                stanzas.push(Stanza { share, body: BASE64.decode(body).ok()?.try_into().ok()? });
            }
        }
        None
    }
}

fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (line, after) = rest.split_at(end);
    *rest = &after[1..];
    std::str::from_utf8(line).ok()
}

fn body(rest: &mut &[u8]) -> Option<String> {
    let mut body = String::new();
    loop {
        let line = next_line(rest)?;
        body += line;
        if line.len() < COLUMNS {
            return Some(body);
        }
    }
}

/// The stanza of one recipient.
fn wrap(file_key: &FileKey, recipient: Recipient, ephemeral: [u8; 32]) -> Result<String, AgeError> {
    let share = x25519(ephemeral, X25519_BASEPOINT_BYTES);
    let key = wrapping_key(x25519(ephemeral, recipient.0), &share, recipient)?;
    let mut body = file_key.to_vec();
    key.seal_in_place_append_tag(nonce(0, false), Aad::empty(), &mut body).map_err(cipher)?;
    Ok(format!("{STANZA}{KIND} {}\n{}\n", BASE64.encode(share), BASE64.encode(body)))
}

fn opened_by(identity: &Identity, stanza: &Stanza) -> Option<FileKey> {
    let shared = x25519(identity.secret, stanza.share);
    let key = wrapping_key(shared, &stanza.share, identity.recipient).ok()?;
    let mut body = stanza.body;
    let opened = key.open_in_place(nonce(0, false), Aad::empty(), &mut body).ok()?;
    FileKey::try_from(&*opened).ok()
}

/// A share that leads to the same secret with any key is none.
fn wrapping_key(shared: [u8; 32], share: &[u8; 32], recipient: Recipient) -> Result<LessSafeKey, AgeError> {
    if shared == [0; 32] {
        return Err(AgeError::Damaged("header"));
    }
    key(&derive(&[*share, recipient.0].concat(), &shared, "age-encryption.org/v1/X25519")?)
}

fn header_key(file_key: &FileKey) -> Result<hmac::Key, AgeError> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &derive(&[], file_key, "header")?))
}

fn payload_key(file_key: &FileKey, nonce: &[u8]) -> Result<LessSafeKey, AgeError> {
    key(&derive(nonce, file_key, "payload")?)
}

fn derive(salt: &[u8], secret: &[u8], purpose: &str) -> Result<[u8; 32], AgeError> {
    let mut derived = [0; 32];
    let (extracted, purpose) = (Salt::new(HKDF_SHA256, salt).extract(secret), [purpose.as_bytes()]);
    let expanded = extracted.expand(&purpose, HKDF_SHA256).map_err(cipher)?;
    expanded.fill(&mut derived).map_err(cipher)?;
    Ok(derived)
}

fn key(bytes: &[u8; 32]) -> Result<LessSafeKey, AgeError> {
    UnboundKey::new(&CHACHA20_POLY1305, bytes).map(LessSafeKey::new).map_err(cipher)
}

fn seal(key: &LessSafeKey, plain: &[u8], file: &mut Vec<u8>) -> Result<(), AgeError> {
    let last = plain.len().saturating_sub(1) / CHUNK;
    for number in 0..=last {
        let begin = file.len();
        file.extend_from_slice(&plain[number * CHUNK..plain.len().min((number + 1) * CHUNK)]);
        let nonce = nonce(number as u64, number == last);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut file[begin..]).map_err(cipher)?;
        file.extend_from_slice(tag.as_ref());
    }
    Ok(())
}

fn open(key: &LessSafeKey, sealed: &[u8]) -> Result<Vec<u8>, AgeError> {
    let mut plain = Vec::with_capacity(sealed.len());
    let last = sealed.len().saturating_sub(1) / (CHUNK + TAG);
    let mut buffer = Vec::with_capacity(CHUNK + TAG);
    for number in 0..=last {
        let (begin, end) = (number * (CHUNK + TAG), sealed.len().min((number + 1) * (CHUNK + TAG)));
        buffer.clear();
        buffer.extend_from_slice(&sealed[begin..end]);
        let opened = key.open_in_place(nonce(number as u64, number == last), Aad::empty(), &mut buffer);
        plain.extend_from_slice(opened.map_err(|_| AgeError::Damaged("contents"))?);
    }
    // A whole file of no bytes is the only one whose last chunk is empty.
    match last > 0 && sealed.len() % (CHUNK + TAG) == TAG {
        true => Err(AgeError::Damaged("length")),
        false => Ok(plain),
    }
}

/// Eleven bytes of the chunk's number, and one for whether it is the last.
fn nonce(number: u64, last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = last.into();
    Nonce::assume_unique_for_key(nonce)
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], AgeError> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new().fill(&mut bytes).map_err(cipher)?;
    Ok(bytes)
}

fn cipher(_: ring::error::Unspecified) -> AgeError {
    AgeError::Cipher
}
