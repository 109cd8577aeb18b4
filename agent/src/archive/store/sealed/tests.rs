use super::*;
use crate::archive::{
    age::tests::{FIRST, SECOND, identities},
    tests::faulty::Faulty,
};

const PLAIN: &[u8] = b"rows of somebody";

fn path() -> Path {
    Path::from("db/7/wal/1.zst")
}

fn with(faulty: &Faulty, lines: &[&str]) -> Store {
    faulty.store().encrypting(identities(lines))
}

async fn names(store: &Store) -> Vec<String> {
    let found = store.list(&Path::from("db")).await.unwrap();
    found.iter().map(|object| object.location.to_string()).collect()
}

#[tokio::test]
async fn the_store_gets_nothing_readable_and_its_name_says_so() {
    let faulty = Faulty::default();
    let store = with(&faulty, &[FIRST]);
    store.put_sealed(&path(), PLAIN.to_vec()).await.unwrap();
    assert_eq!(names(&store).await, ["db/7/wal/1.zst.age"]);
    let stored = store.get(&Path::from("db/7/wal/1.zst.age")).await.unwrap().unwrap();
    assert!(!stored.windows(4).any(|part| part == b"rows"));
    assert_eq!(store.get_either(&path()).await.unwrap().unwrap(), PLAIN);
    assert!(store.exists_as_either(&path()).await.unwrap());
}

#[tokio::test]
async fn what_was_written_before_encryption_or_after_is_read() {
    let faulty = Faulty::default();
    let (plain, encrypting) = (faulty.store(), with(&faulty, &[FIRST]));
    plain.put_sealed(&path(), PLAIN.to_vec()).await.unwrap();
    assert_eq!(names(&plain).await, ["db/7/wal/1.zst"]);
    assert_eq!(encrypting.get_either(&path()).await.unwrap().unwrap(), PLAIN);
    assert!(encrypting.exists_as_either(&path()).await.unwrap());
    let again = encrypting.put_new_sealed(&path(), PLAIN.to_vec()).await.unwrap();
    assert_eq!((again, names(&plain).await.len()), (Written::AlreadyThere, 1));

    let other = Path::from("db/7/wal/2.zst");
    assert_eq!(encrypting.put_new_sealed(&other, PLAIN.to_vec()).await.unwrap(), Written::New);
    assert_eq!(encrypting.put_new_sealed(&other, PLAIN.to_vec()).await.unwrap(), Written::AlreadyThere);
    assert!(plain.exists_as_either(&other).await.unwrap());
    let error = plain.get_either(&other).await.unwrap_err();
    assert!(error.is_lasting());
    let said = crate::chain::Chain(&error).to_string();
    assert!(said.contains("2.zst.age") && said.contains("encryption.secretName"), "{said}");
}

#[tokio::test]
async fn another_identity_and_a_changed_object_are_told_apart() {
    let faulty = Faulty::default();
    let store = with(&faulty, &[FIRST]);
    store.put_sealed(&path(), PLAIN.to_vec()).await.unwrap();
    let error = with(&faulty, &[SECOND]).get_either(&path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Sealed { source: AgeError::OtherIdentity(1), .. }), "{error:?}");
    let said = crate::chain::Chain(&error).to_string();
    assert!(!said.contains(FIRST) && !said.contains(SECOND), "{said}");

    let at = Path::from("db/7/wal/1.zst.age");
    let mut stored = store.get(&at).await.unwrap().unwrap();
    *stored.last_mut().unwrap() ^= 1;
    store.put(&at, stored).await.unwrap();
    let error = store.get_as(&path(), true).await.unwrap_err();
    assert!(matches!(error, StoreError::Sealed { source: AgeError::Damaged(_), .. }), "{error:?}");
    assert!(error.is_lasting());
}

#[tokio::test]
async fn identities_that_are_not_those_of_before_are_noticed_and_a_rotation_is_none() {
    let faulty = Faulty::default();
    let test = Path::from("db/7/identities.age");
    faulty.store().try_identities(&test).await.unwrap();
    assert_eq!(faulty.writes(), 0, "nothing to try");
    with(&faulty, &[FIRST]).try_identities(&test).await.unwrap();
    with(&faulty, &[FIRST]).try_identities(&test).await.unwrap();
    assert_eq!(faulty.writes(), 1);
    let error = with(&faulty, &[SECOND]).try_identities(&test).await.unwrap_err();
    assert!(matches!(error, StoreError::Sealed { source: AgeError::OtherIdentity(1), .. }), "{error:?}");
    // A member that has not read the changed Secret yet is not disturbed by one that has.
    with(&faulty, &[FIRST, SECOND]).try_identities(&test).await.unwrap();
    with(&faulty, &[FIRST]).try_identities(&test).await.unwrap();
    with(&faulty, &[FIRST, SECOND]).try_identities(&test).await.unwrap();
    assert_eq!(faulty.writes(), 2);
    // When nothing is left that the older one encrypted.
    with(&faulty, &[SECOND]).try_identities(&test).await.unwrap();
    assert_eq!(faulty.writes(), 2);
}

#[tokio::test]
async fn a_text_inside_an_object_is_encrypted_by_itself() {
    let faulty = Faulty::default();
    let (store, at) = (with(&faulty, &[FIRST]), Path::from("db/7/snapshot/b.json"));
    let sealed = store.seal_text(&at, "START WAL LOCATION").unwrap();
    assert!(!sealed.contains("START"));
    assert_eq!(store.open_text(&at, &sealed).unwrap(), "START WAL LOCATION");
    assert_eq!(store.open_text(&at, "START TIME").unwrap(), "START TIME", "written before");
    assert!(faulty.store().open_text(&at, &sealed).unwrap_err().is_lasting());
    assert_eq!(faulty.store().seal_text(&at, "START TIME").unwrap(), "START TIME");
    let cut = sealed.replace("-----END", "");
    assert!(store.open_text(&at, &cut).unwrap_err().is_lasting());
}
