//! Encryption as the program `age` has it, so that what lies in a store can be read without this project
//! (<https://age-encryption.org>). The crate `age` brings sixty others, half of them to translate its messages; the
//! format is small, and its parts are those of TLS, which `ring` has. What `ring` lacks is X25519 with a key that is
//! kept.
//!
//! | file | one idea |
//! |---|---|
//! | this | who can read: identities, from a file as `age-keygen` writes it |
//! | [`mod@file`] | the format of a file: pure but for random numbers |
//! | [`armor`] | a file as text |

pub(crate) mod armor;
mod file;

use std::{fmt, str::FromStr};

use bech32::{Bech32, primitives::decode::CheckedHrpstring};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

/// What an identity begins with, before the digit that separates it from the key.
const PREFIX: &str = "age-secret-key-";

/// Why something cannot be encrypted or decrypted. Never tells a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AgeError {
    /// Nothing to try with.
    #[error(
        "it is encrypted, and no identity is given: name the Secret that holds identity.txt in encryption.secretName, \
         beside the destination"
    )]
    NoIdentity,
    /// For somebody else.
    #[error(
        "none of the {0} identities that are given opens it: add the one that it was encrypted with to identity.txt \
         in the Secret"
    )]
    OtherIdentity(usize),
    /// Not as it was written.
    #[error("it is damaged, or was tampered with: its {0} is not as it was written")]
    Damaged(&'static str),
    /// Nothing that depends on the file.
    #[error("the cipher, or the source of random numbers, failed")]
    Cipher,
}

/// Why a file holds no identities. Never tells what it holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidIdentities {
    /// One of the lines.
    #[error(
        "line {0} of identity.txt is no identity: it should begin with AGE-SECRET-KEY-1, as age-keygen writes it"
    )]
    Line(usize),
    /// None at all.
    #[error("identity.txt holds no identity: make one with age-keygen")]
    None,
}

/// Who can read a file.
#[derive(Clone, Copy)]
struct Recipient([u8; 32]);

/// Somebody who can, with the key.
struct Identity {
    secret: [u8; 32],
    recipient: Recipient,
}

impl FromStr for Identity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let checked = CheckedHrpstring::new::<Bech32>(text).map_err(drop)?;
        if !checked.hrp().as_str().eq_ignore_ascii_case(PREFIX) {
            return Err(());
        }
        let secret: [u8; 32] = checked.byte_iter().collect::<Vec<_>>().try_into().map_err(drop)?;
        Ok(Self { secret, recipient: Recipient(x25519(secret, X25519_BASEPOINT_BYTES)) })
    }
}

/// Those of one file, oldest first: the newest encrypts, all decrypt.
pub(crate) struct Identities {
    older: Vec<Identity>,
    newest: Identity,
}

impl Identities {
    /// From lines as `age-keygen` writes and appends them.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidIdentities> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let written = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let read = written
            .map(|(number, line)| line.parse::<Identity>().map_err(|()| InvalidIdentities::Line(number)));
        let mut older: Vec<Identity> = read.collect::<Result<_, _>>()?;
        let newest = older.pop().ok_or(InvalidIdentities::None)?;
        Ok(Self { older, newest })
    }

    /// A file that the newest can read.
    pub(crate) fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>, AgeError> {
        file::encrypt(plain, [self.newest.recipient])
    }

    /// A file that each of them can read.
    pub(crate) fn encrypt_for_all(&self, plain: &[u8]) -> Result<Vec<u8>, AgeError> {
        file::encrypt(plain, self.all().into_iter().map(|identity| identity.recipient))
    }

    /// What a file says that one of them can read.
    pub(crate) fn decrypt(&self, file: &[u8]) -> Result<Vec<u8>, AgeError> {
        file::decrypt(file, &self.all())
    }

    /// Whether the newest can read it.
    pub(crate) fn newest_opens(&self, file: &[u8]) -> bool {
        file::decrypt(file, &[&self.newest]).is_ok()
    }

    /// What is most likely to fit comes first.
    fn all(&self) -> Vec<&Identity> {
        [&self.newest].into_iter().chain(self.older.iter().rev()).collect()
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.older.len() + 1)
    }
}

#[cfg(test)]
pub(crate) mod tests;
