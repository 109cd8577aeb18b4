//! Objects that are encrypted before the store gets them: `<path>.age` instead of `<path>`. What an object is shows in
//! its name, so that what was written before encryption was turned on, or off, can be read for ever.

use std::sync::Arc;

use object_store::path::Path;

use super::{Store, StoreError, Written, contents};
use crate::archive::age::{AgeError, Identities, armor};

/// What the name of an encrypted object ends with.
const SUFFIX: &str = ".age";
/// What the object says whose only use is to be decrypted.
const TEST: &[u8] = b"Whoever can read this holds an identity that the backups here are encrypted with.\n";

/// The name that an object would have if it were not encrypted.
pub(crate) fn plain_name(name: &str) -> &str {
    name.strip_suffix(SUFFIX).unwrap_or(name)
}

fn sealed(path: &Path) -> Path {
    Path::from(format!("{path}{SUFFIX}"))
}

impl Store {
    /// From now on encrypts what is to be encrypted.
    pub(crate) fn encrypting(self, identities: Identities) -> Self {
        Self { identities: Some(Arc::new(identities)), ..self }
    }

    /// Whether it does.
    pub(crate) fn encrypts(&self) -> bool {
        self.identities.is_some()
    }

    /// What to write for `plain`, and where. Takes a while.
    pub(crate) fn seal(&self, path: Path, plain: Vec<u8>) -> Result<(Path, Vec<u8>), StoreError> {
        let Some(identities) = &self.identities else { return Ok((path, plain)) };
        let path = sealed(&path);
        let file = identities.encrypt(&plain).map_err(|source| failed(&path, source))?;
        Ok((path, file))
    }

    /// Writes an object, encrypted if it is to be, over whatever was there.
    pub(crate) async fn put_sealed(&self, path: &Path, plain: Vec<u8>) -> Result<(), StoreError> {
        let (path, file) = self.sealed(path, plain).await?;
        self.put(&path, file).await
    }

    /// Writes an object, encrypted if it is to be, unless there is one in either form.
    pub(crate) async fn put_new_sealed(&self, path: &Path, plain: Vec<u8>) -> Result<Written, StoreError> {
        if self.encrypts() && self.exists(path).await? {
            return Ok(Written::AlreadyThere);
        }
        let (path, file) = self.sealed(path, plain).await?;
        self.put_new(&path, file).await
    }

    /// What an object says, if there is one in either form; first looks for that which is written now.
    pub(crate) async fn get_either(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let first = self.encrypts();
        match self.get_as(path, first).await? {
            Some(plain) => Ok(Some(plain)),
            None => self.get_as(path, !first).await,
        }
    }

    /// What an object of this form says, if there is one.
    pub(crate) async fn get_as(&self, path: &Path, encrypted: bool) -> Result<Option<Vec<u8>>, StoreError> {
        if !encrypted {
            return self.get(path).await;
        }
        let at = sealed(path);
        let Some(file) = self.get(&at).await? else { return Ok(None) };
        let store = self.clone();
        let opening = tokio::task::spawn_blocking(move || store.open(&at, &file).map(Some));
        opening.await.map_err(|_| given_up("decrypting", path))?
    }

    /// Whether there is such an object in either form.
    pub(crate) async fn exists_as_either(&self, path: &Path) -> Result<bool, StoreError> {
        let sealed = sealed(path);
        let (first, second) = match self.encrypts() {
            true => (&sealed, path),
            false => (path, &sealed),
        };
        Ok(self.exists(first).await? || self.exists(second).await?)
    }

    /// A text for a field of the object at `path`.
    pub(crate) fn seal_text(&self, path: &Path, text: &str) -> Result<String, StoreError> {
        let Some(identities) = &self.identities else { return Ok(text.to_owned()) };
        let file = identities.encrypt(text.as_bytes()).map_err(|source| failed(path, source))?;
        Ok(armor::armor(&file))
    }

    /// The text that such a field holds.
    pub(crate) fn open_text(&self, path: &Path, text: &str) -> Result<String, StoreError> {
        if !armor::is_armored(text) {
            return Ok(text.to_owned());
        }
        let damaged = || failed(path, AgeError::Damaged("armor"));
        let plain = self.open(path, &armor::dearmor(text).ok_or_else(damaged)?)?;
        String::from_utf8(plain).map_err(|error| contents(path, &error))
    }

    /// Looks whether the identities are still those of what was written before: they open the object at `path`, which
    /// all that were given at some time can read. It is written anew for those that were added since.
    pub(crate) async fn try_identities(&self, path: &Path) -> Result<(), StoreError> {
        let Some(identities) = &self.identities else { return Ok(()) };
        if let Some(file) = self.get(path).await? {
            self.open(path, &file)?;
            if identities.newest_opens(&file) {
                return Ok(());
            }
        }
        let file = identities.encrypt_for_all(TEST).map_err(|source| failed(path, source))?;
        self.put(path, file).await
    }

    fn open(&self, path: &Path, file: &[u8]) -> Result<Vec<u8>, StoreError> {
        let opened = match &self.identities {
            Some(identities) => identities.decrypt(file),
            None => Err(AgeError::NoIdentity),
        };
        opened.map_err(|source| failed(path, source))
    }

    async fn sealed(&self, path: &Path, plain: Vec<u8>) -> Result<(Path, Vec<u8>), StoreError> {
        let (store, at) = (self.clone(), path.clone());
        let sealing = tokio::task::spawn_blocking(move || store.seal(at, plain));
        sealing.await.map_err(|_| given_up("encrypting", path))?
    }
}

fn failed(path: &Path, source: AgeError) -> StoreError {
    StoreError::Sealed { path: path.to_string(), source }
}

/// A panic, or the end of the process.
fn given_up(action: &'static str, path: &Path) -> StoreError {
    StoreError::Failed { action, path: path.to_string(), message: "it was given up".to_owned() }
}

#[cfg(test)]
mod tests;
