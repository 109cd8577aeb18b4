//! The certificate authority of one Database: ECDSA P-256, made once, signs what members and the operator
//! present to each other.
//!
//! Dates have the resolution of a day; everything begins a day early so that clocks may disagree.

use jiff::{ToSpan, civil::Date};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Ten years: it has one Database to serve, and replacing it is a matter of deleting its Secret.
const AUTHORITY_DAYS: i64 = 3_650;

/// The CA's material or a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The stored material is not a CA's.
    #[error("the Secret with the CA is unreadable; delete it and a new CA is made")]
    Unreadable(#[source] rcgen::Error),
    /// Making keys or signing failed.
    #[error("could not issue a certificate")]
    Issue(#[source] rcgen::Error),
}

/// A CA with its private key. Never printed.
pub(crate) struct Authority {
    certificate: String,
    key: String,
}

/// A certificate with its private key, both PEM. Never printed.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) not_after: Date,
}

/// What a certificate is for.
pub(crate) struct Subject<'a> {
    /// For PostgreSQL, the role that it may log in as.
    pub(crate) common_name: &'a str,
    /// Empty for a client.
    pub(crate) hosts: Vec<String>,
    pub(crate) days: i64,
}

impl Authority {
    /// A new CA for `database`.
    pub(crate) fn generate(database: &str, today: Date) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Issue)?;
        let mut params = named(&format!("{database} CA"), Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, today, AUTHORITY_DAYS);
        let certificate = params.self_signed(&key).map_err(AuthorityError::Issue)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The CA as stored; checked when it first signs.
    pub(crate) fn stored(certificate: String, key: String) -> Self {
        Self { certificate, key }
    }

    /// PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// PEM.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// A certificate with a fresh key.
    pub(crate) fn issue(&self, subject: Subject<'_>, today: Date) -> Result<Issued, AuthorityError> {
        let ca_key = KeyPair::from_pem(&self.key).map_err(AuthorityError::Unreadable)?;
        let issuer =
            Issuer::from_ca_cert_pem(&self.certificate, ca_key).map_err(AuthorityError::Unreadable)?;
        let key = KeyPair::generate().map_err(AuthorityError::Issue)?;
        let mut params = named(subject.common_name, subject.hosts)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !params.subject_alt_names.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let not_after = valid(&mut params, today, subject.days);
        let certificate = params.signed_by(&key, &issuer).map_err(AuthorityError::Issue)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem(), not_after })
    }
}

fn named(common_name: &str, hosts: Vec<String>) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(hosts).map_err(AuthorityError::Issue)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn valid(params: &mut CertificateParams, today: Date, days: i64) -> Date {
    let begin = today.saturating_sub(1.day());
    let end = today.saturating_add(days.days());
    let [not_before, not_after] = [begin, end].map(|date| {
        // Months and days of a civil date are small and positive.
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    });
    params.not_before = not_before;
    params.not_after = not_after;
    end
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

    use super::*;

    /// Verifies as a client of the member would: by the same library that ships.
    fn verify(authority: &Authority, issued: &Issued, host: &str, day: Date) -> Result<(), rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            std::sync::Arc::new(roots),
            std::sync::Arc::new(rustls::crypto::ring::default_provider()),
        )
        .build()
        .unwrap();
        let end_entity = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let noon = day.at(12, 0, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(noon.as_second()).unwrap(),
        ));
        let host = ServerName::try_from(host.to_owned()).unwrap();
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            verifier.as_ref(),
            &end_entity,
            &[],
            &host,
            &[],
            now,
        )
        .map(drop)
    }

    fn member(hosts: &[&str]) -> Subject<'static> {
        Subject {
            common_name: "replicator",
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            days: 90,
        }
    }

    #[test]
    fn a_members_certificate_verifies_for_its_names_and_days() {
        let today = date(2026, 2, 28);
        let authority = Authority::generate("db", today).unwrap();
        let issued = authority.issue(member(&["db-rw.prod.svc"]), today).unwrap();
        assert_eq!(issued.not_after, date(2026, 5, 29));
        assert_eq!(verify(&authority, &issued, "db-rw.prod.svc", today), Ok(()));
        assert!(verify(&authority, &issued, "other-rw.prod.svc", today).is_err());
        assert!(verify(&authority, &issued, "db-rw.prod.svc", date(2026, 5, 30)).is_err());
        // On a node whose clock is hours behind it is still yesterday.
        assert_eq!(verify(&authority, &issued, "db-rw.prod.svc", date(2026, 2, 27)), Ok(()));
    }

    #[test]
    fn another_databases_authority_does_not_vouch() {
        let today = date(2026, 2, 28);
        let ours = Authority::generate("db", today).unwrap();
        let theirs = Authority::generate("db", today).unwrap();
        let issued = theirs.issue(member(&["db-rw.prod.svc"]), today).unwrap();
        assert!(verify(&ours, &issued, "db-rw.prod.svc", today).is_err());
    }

    #[test]
    fn a_stored_authority_signs_as_before_and_a_broken_one_says_so() {
        let today = date(2026, 2, 28);
        let made = Authority::generate("db", today).unwrap();
        let stored = Authority::stored(made.certificate().to_owned(), made.key().to_owned());
        let issued = stored.issue(member(&["db"]), today).unwrap();
        assert_eq!(verify(&made, &issued, "db", today), Ok(()));
        let broken = Authority::stored(made.certificate().to_owned(), "no key".to_owned());
        assert!(matches!(broken.issue(member(&[]), today), Err(AuthorityError::Unreadable(_))));
    }
}
