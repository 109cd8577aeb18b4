//! Builds Go programs from modules of this repository, once per content of the module.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::cache::{self, Digest};
use super::{command, progress};

/// Kubernetes takes about five minutes on two idle cores; three times that is a build that hangs.
const BUILD_LIMIT: Duration = Duration::from_mins(30);

/// A Go module of this repository and how it is built.
#[derive(Clone, Copy, Debug)]
pub struct GoModule {
    /// What its entry in the cache is called.
    pub name: &'static str,
    /// Its folder in the crate `e2e`.
    pub folder: &'static str,
    /// What `go build` builds: `.` for one program named after the module's last part, `tool` for all its tools.
    pub packages: &'static str,
    /// Further flags for the linker: versions that programs report.
    pub link_flags: &'static str,
    /// Other names for the program, for one that looks at what it was called by.
    pub names: &'static [&'static str],
}

/// etcd, all of Kubernetes and kubectl, in one program. The version matters: clients read it.
pub const KUBERNETES: GoModule = GoModule {
    name: "kubernetes",
    folder: "kubernetes/cluster",
    packages: ".",
    link_flags: "-X k8s.io/component-base/version.gitVersion=v1.35.4 \
                 -X k8s.io/component-base/version.gitMajor=1 \
                 -X k8s.io/component-base/version.gitMinor=35 \
                 -X k8s.io/client-go/pkg/version.gitVersion=v1.35.4",
    names: &[
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubectl",
        "kubelet",
    ],
};

/// The cluster's DNS.
pub const COREDNS: GoModule =
    GoModule { name: "coredns", folder: "kubernetes/coredns", packages: ".", link_flags: "", names: &[] };

/// The sandbox container.
pub const PAUSE: GoModule =
    GoModule { name: "pause", folder: "kubernetes/pause", packages: ".", link_flags: "", names: &[] };

/// What makes the faults of the control plane.
pub const FAULTS: GoModule =
    GoModule { name: "faults", folder: "kubernetes/faults", packages: ".", link_flags: "", names: &[] };

impl GoModule {
    /// The folder with the programs, built where they are not in the cache.
    pub async fn build(&self) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.folder);
        let digest = self.digest(&source)?;
        cache::ensure(self.name, &digest, async |out: &Path| {
            if command::run("go", &["version"]).await.is_err() {
                bail!("there is no `go`: install Go 1.25 or later and put it in PATH");
            }
            let label = format!("building {} (kept in {})", self.name, cache::root()?.display());
            progress::of(&label, self.build_into(&source, out)).await
        })
        .await
    }

    fn digest(&self, source: &Path) -> Result<Digest> {
        let mut files: Vec<PathBuf> = fs::read_dir(source)
            .with_context(|| format!("cannot read {}", source.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        let mut inputs = vec![format!("{self:?}").into_bytes()];
        for file in files {
            inputs.push(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
        }
        Ok(Digest::of(inputs.iter().map(Vec::as_slice)))
    }

    async fn build_into(&self, source: &Path, out: &Path) -> Result<()> {
        let mut build = Command::new("go");
        build.args(["build", "-trimpath", "-ldflags"]).arg(format!("-s -w {}", self.link_flags));
        build.arg("-o").arg(out).arg(self.packages);
        build.current_dir(source).env("CGO_ENABLED", "0");
        command::output(build, BUILD_LIMIT).await?;
        self.link_names(out)
    }

    fn link_names(&self, out: &Path) -> Result<()> {
        let program = Path::new(self.folder).file_name().unwrap_or_default();
        for name in self.names {
            std::os::unix::fs::symlink(program, out.join(name))
                .with_context(|| format!("cannot name {name} in {}", out.display()))?;
        }
        Ok(())
    }
}
