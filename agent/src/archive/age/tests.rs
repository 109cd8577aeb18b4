use std::{io::Write, process};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use proptest::prelude::*;

use super::{armor::*, *};

/// Plain bytes of a chunk of the format.
const CHUNK: usize = 64 << 10;
/// An identity that `age-keygen` made for these tests.
pub(crate) const FIRST: &str = "AGE-SECRET-KEY-1MQTLC00EWPEQTRT404DGR0C8AD34CGP3VTR206M7X3LLTS0JC25SVFP69F";
/// Another.
pub(crate) const SECOND: &str = "AGE-SECRET-KEY-1VXW27GH8FRTHAN6PLVGZ3PHZMTCJRZCXRKKN2JGWCTQF64R86L7QHTKP09";

/// What `age` 1.1.1 wrote for [`FIRST`].
const OF_AGE: &str = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSB0cnBhSCt3MXdNQWhtRmprZ2lsTVBiSDI3V2YrQXhhS1VOa1NxcTlv\
    MzJJCnFyWFZZQzJsSnZVQUNVY2l1eWxEWkFteEtaZC9PZ1JlRXM4T2xEYWR5K2MKLS0tIGVyaUJXZ1NJVVdBcWdWWmhLNWxtMHp2TmJsRzlKM2Zu\
    bjAvd3dvOG9BdVEKJQpf/XsiBcIqOVab3FQxO0riAluObCG7p/BEj8wqO6+GaK/aRIqIAe2zihMI/w==";
/// The same as text.
const ARMORED_OF_AGE: &str = "-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSA3QjR4aGV2eHA2V21iVnc0
MHNzT1NIVTdpOWh6ZWZDZVROWFVvbUVDMGo4Ck5UWmdJVmFoaVFqOUxlV2hOMDA1
TU1vRlpZNlFFdmZuK1d0dmxXYnMwMFkKLS0tIEVqUnR0a2VUcHJ5Ri9ES3RKY05G
WXJHZjlPWnFjZjFxWXRJUnBLU3ppTU0K5kVsVQb/OXzXs8z2ESUSupfTd0YSLIgh
xBTFuHG9+/Dc5NPlneA=
-----END AGE ENCRYPTED FILE-----
";

pub(crate) fn identities(lines: &[&str]) -> Identities {
    Identities::parse(&lines.join("\n")).unwrap()
}

#[test]
fn what_age_wrote_is_read() {
    let first = identities(&[FIRST]);
    let file = BASE64.decode(OF_AGE).unwrap();
    assert_eq!(first.decrypt(&file).unwrap(), b"what age wrote");
    assert!(is_armored(ARMORED_OF_AGE));
    assert_eq!(first.decrypt(&dearmor(ARMORED_OF_AGE).unwrap()).unwrap(), b"label\n");
    assert_eq!(armor(&dearmor(ARMORED_OF_AGE).unwrap()), ARMORED_OF_AGE);
}

/// The promise that everything can be restored by hand.
#[test]
#[ignore = "needs the program age; run by `cargo lab test`"]
fn age_reads_what_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("identity.txt");
    std::fs::write(&key, format!("# made for tests\n{FIRST}\n{SECOND}\n")).unwrap();
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
        let plain: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let file = identities(&[SECOND, FIRST]).encrypt(&plain).unwrap();
        for file in [file.clone(), armor(&file).into_bytes()] {
            let mut age = process::Command::new("age")
                .args(["-d", "-i"])
                .arg(&key)
                .stdin(process::Stdio::piped())
                .stdout(process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = age.stdin.take().unwrap();
            let writing = std::thread::spawn(move || input.write_all(&file).unwrap());
            let output = age.wait_with_output().unwrap();
            writing.join().unwrap();
            assert!(output.status.success() && output.stdout == plain, "{length} bytes");
        }
    }
}

#[test]
fn the_newest_encrypts_and_all_decrypt() {
    let (first, second) = (identities(&[FIRST]), identities(&[SECOND]));
    let rotated = identities(&["# older", FIRST, "", "# newer", SECOND]);
    let older = first.encrypt(b"a").unwrap();
    let newer = rotated.encrypt(b"b").unwrap();
    assert_eq!(
        (rotated.decrypt(&older).unwrap(), rotated.decrypt(&newer).unwrap()),
        (vec![b'a'], vec![b'b'])
    );
    assert_eq!(second.decrypt(&newer).unwrap(), b"b");
    assert_eq!(first.decrypt(&newer), Err(AgeError::OtherIdentity(1)));
    assert!(rotated.newest_opens(&newer) && !rotated.newest_opens(&older));
    let all = rotated.encrypt_for_all(b"c").unwrap();
    assert!(first.newest_opens(&all) && second.newest_opens(&all));
    assert_ne!(first.encrypt(b"a").unwrap(), older, "each file has a key of its own");
}

#[test]
fn what_is_no_identity_is_named_by_its_line_only() {
    let refused = |text: &str| Identities::parse(text).unwrap_err();
    assert_eq!(refused("\n# a comment\n"), InvalidIdentities::None);
    assert_eq!(refused(&format!("{FIRST}\npassword")), InvalidIdentities::Line(2));
    let mut typo = FIRST.to_owned();
    typo.replace_range(20..21, "X");
    assert_eq!(refused(&typo), InvalidIdentities::Line(1));
    let recipient = "age1zzs8atkkz52595l5nxn35vfmqya0rqt7p9enrhv9k0qlz3qu997sypwyrd";
    let said = refused(recipient).to_string();
    assert!(said.contains("line 1") && !said.contains(recipient), "{said}");
    assert_eq!(format!("{:?}", identities(&[FIRST, SECOND])), "2 identities");
}

#[test]
fn a_file_that_was_cut_or_lengthened_is_noticed() {
    let first = identities(&[FIRST]);
    let plain = vec![7; 2 * CHUNK];
    let file = first.encrypt(&plain).unwrap();
    // The last chunk, its half, everything but the header.
    for gone in [CHUNK + 16, CHUNK / 2, file.len() - 150, file.len() - 10] {
        let cut = &file[..file.len() - gone];
        assert!(matches!(first.decrypt(cut), Err(AgeError::Damaged(_))), "{gone}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(matches!(first.decrypt(&longer), Err(AgeError::Damaged(_))));
    longer.truncate(file.len());
    let (begin, middle) = (file.len() - 2 * (CHUNK + 16), file.len() - (CHUNK + 16));
    longer[begin..].rotate_left(middle - begin);
    assert_eq!(first.decrypt(&longer), Err(AgeError::Damaged("contents")), "chunks have their places");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_and_a_changed_bit_is_noticed(
        length in prop_oneof![0..100_usize, CHUNK - 2..CHUNK + 2],
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let first = identities(&[FIRST]);
        let plain = vec![42; length];
        let mut file = first.encrypt(&plain).unwrap();
        prop_assert_eq!(first.decrypt(&file).unwrap(), plain);
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(first.decrypt(&file).is_err());
    }
}
