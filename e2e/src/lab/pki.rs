//! The cluster's certificates: one authority, and a key pair for everyone who serves or calls.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::addresses::{API_SERVER, API_SERVICE};
use super::{Node, paths, storage};

/// The cluster's certificate authority, whose key is in memory only.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate names.
#[derive(Clone, Copy, Debug)]
struct Subject<'a> {
    user: &'a str,
    group: Option<&'a str>,
    /// Names and addresses that it serves.
    serves: &'a [String],
}

/// The file with the authority's certificate.
pub(super) fn authority() -> PathBuf {
    file("ca.crt")
}

/// The certificate and the key called `name`.
pub(crate) fn pair(name: &str) -> (PathBuf, PathBuf) {
    (file(&format!("{name}.crt")), file(&format!("{name}.key")))
}

/// The kubeconfig of the component called `name`.
pub(super) fn kubeconfig(name: &str) -> PathBuf {
    file(&format!("{name}.kubeconfig"))
}

fn file(name: &str) -> PathBuf {
    paths::at("pki").join(name)
}

/// Writes all certificates and kubeconfigs of the cluster.
pub(super) fn create(nodes: &[Node]) -> Result<()> {
    let folder = paths::at("pki");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let authority = Authority::create()?;
    create_service_account_key()?;
    authority.issue_control_plane()?;
    for node in nodes {
        authority.issue_node(node)?;
    }
    authority.issue("admin", Subject { user: "lab-admin", group: Some("system:masters"), serves: &[] })?;
    write_kubeconfig("admin", &paths::kubeconfig())
}

impl Authority {
    fn create() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "matriarch-lab");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        write(&authority(), &params.self_signed(&key)?.pem())?;
        write(&file("ca.key"), &key.serialize_pem())?;
        Ok(Self { issuer: Issuer::new(params, key) })
    }

    fn issue_control_plane(&self) -> Result<()> {
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let mut serves: Vec<String> = names.map(str::to_owned).to_vec();
        serves.extend(["127.0.0.1".to_owned(), API_SERVER.to_string(), API_SERVICE.to_string()]);
        self.issue("kube-apiserver", Subject { user: "kube-apiserver", group: None, serves: &serves })?;
        self.issue(
            "kubelet-client",
            Subject { user: "kubelet-client", group: Some("system:masters"), serves: &[] },
        )?;
        for component in
            ["kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns", storage::IDENTITY]
        {
            let user = format!("system:{component}");
            self.issue(component, Subject { user: &user, group: None, serves: &[] })?;
            write_kubeconfig(component, &kubeconfig(component))?;
        }
        Ok(())
    }

    fn issue_node(&self, node: &Node) -> Result<()> {
        let user = format!("system:node:{}", node.name());
        let serves = [node.name().to_owned(), node.address().to_string()];
        self.issue(node.name(), Subject { user: &user, group: Some("system:nodes"), serves: &serves })?;
        write_kubeconfig(node.name(), &kubeconfig(node.name()))
    }

    fn issue(&self, name: &str, subject: Subject<'_>) -> Result<()> {
        let mut params = CertificateParams::new(subject.serves)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.user);
        if let Some(group) = subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (certificate_file, key_file) = pair(name);
        write(&certificate_file, &certificate.pem())?;
        write(&key_file, &key.serialize_pem())
    }
}

/// Signs the tokens of service accounts.
fn create_service_account_key() -> Result<()> {
    let key = KeyPair::generate()?;
    write(&file("service-accounts.key"), &key.serialize_pem())?;
    write(&file("service-accounts.pub"), &key.public_key_pem())
}

fn write_kubeconfig(name: &str, to: &Path) -> Result<()> {
    let (certificate, key) = pair(name);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": name } }],
        "clusters": [{ "name": "lab", "cluster": {
            "server": format!("https://{API_SERVER}:6443"),
            "certificate-authority": authority(),
        }}],
        "users": [{ "name": name, "user": { "client-certificate": certificate, "client-key": key } }],
    });
    write(to, &config.to_string())
}

fn write(file: &Path, content: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| open.write_all(content.as_bytes()))
        .with_context(|| format!("cannot write {}", file.display()))
}
