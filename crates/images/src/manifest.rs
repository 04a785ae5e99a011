//! `template.json`: what is stored of a template beside its files.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use model::{BuildId, IdError, Resources, TemplateId};
use serde::{Deserialize, Serialize};

use crate::{NewTemplate, Origin, Package, Template};

pub(crate) const FILE: &str = "template.json";

/// Goes up when an older daemon could not read the file rightly.
const FORMAT: u32 = 2;

/// One that is whole is written so, and read by the daemons before layers.
const WHOLE: u32 = 1;

const SNAPSHOT: &str = "snapshot";
const PASSING: &str = "passing";

/// A manifest is small; a file far beyond that is not one.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Why a template's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("read {FILE}")]
    Read(#[source] io::Error),
    #[error("{FILE} is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("{FILE} is not valid")]
    Parse(#[source] serde_json::Error),
    #[error("{FILE} has format {found}, and this version of cofferdam reads {FORMAT}")]
    Format { found: u32 },
    #[error("{FILE} holds an id that is not one")]
    Id(#[source] IdError),
    #[error("{FILE} holds a time that is not one")]
    Time(#[source] jiff::Error),
    #[error("{FILE} is of build {0}, and its directory has another name")]
    Misnamed(BuildId),
    #[error("its root file system is not there")]
    Rootfs(#[source] io::Error),
    #[error("its root file system is not a directory everybody may read")]
    RootfsMode,
    #[error("{FILE} says that it is {0:?}, which is nothing known")]
    Origin(String),
}

/// Only the format, read first: the rest may look different in another one.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    id: String,
    build: String,
    generation: u64,
    created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    below: Vec<String>,
    aliases: Vec<String>,
    vcpus: u32,
    memory_mib: u64,
    disk_mib: u64,
    user: String,
    workdir: Option<String>,
    envd_version: String,
    packages: Vec<Installed>,
}

#[derive(Serialize, Deserialize)]
struct Installed {
    name: String,
    version: String,
}

/// Reads the manifest of the template directory `dir`, whose name must be its build id.
pub(crate) fn read(dir: &Path) -> Result<Template, ManifestError> {
    let path = dir.join(FILE);
    let size = std::fs::metadata(&path).map_err(ManifestError::Read)?.len();
    if size > MAX_BYTES {
        return Err(ManifestError::TooLarge);
    }
    let text = std::fs::read(&path).map_err(ManifestError::Read)?;
    let head: Head = serde_json::from_slice(&text).map_err(ManifestError::Parse)?;
    if !(WHOLE..=FORMAT).contains(&head.format) {
        return Err(ManifestError::Format { found: head.format });
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(ManifestError::Parse)?;
    let template = manifest.into_template()?;
    if dir.file_name().is_none_or(|name| name != template.build.as_str()) {
        return Err(ManifestError::Misnamed(template.build));
    }
    Ok(template)
}

/// Writes the manifest of `template` into `dir`, not synced.
pub(crate) fn write(dir: &Path, template: &Template) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(&Manifest::from(template)).map_err(io::Error::from)?;
    text.push(b'\n');
    std::fs::write(dir.join(FILE), text)
}

impl Manifest {
    fn into_template(self) -> Result<Template, ManifestError> {
        let created: jiff::Timestamp = self.created_at.parse().map_err(ManifestError::Time)?;
        let origin = match self.origin.as_deref() {
            None => Origin::Built,
            Some(SNAPSHOT) => Origin::Snapshot,
            Some(PASSING) => Origin::Passing,
            Some(other) => return Err(ManifestError::Origin(other.to_owned())),
        };
        let below = self.below.iter().map(|build| BuildId::parse(build));
        Ok(Template {
            id: TemplateId::parse(&self.id).map_err(ManifestError::Id)?,
            build: BuildId::parse(&self.build).map_err(ManifestError::Id)?,
            generation: self.generation,
            created_at: SystemTime::from(created),
            origin,
            below: below.collect::<Result<_, _>>().map_err(ManifestError::Id)?,
            content: NewTemplate {
                aliases: self.aliases,
                resources: Resources {
                    vcpus: self.vcpus,
                    memory_mib: self.memory_mib,
                    disk_mib: self.disk_mib,
                },
                user: self.user,
                workdir: self.workdir,
                envd_version: self.envd_version,
                packages: self
                    .packages
                    .into_iter()
                    .map(|package| Package { name: package.name, version: package.version })
                    .collect(),
            },
        })
    }
}

impl From<&Template> for Manifest {
    fn from(template: &Template) -> Self {
        let content = &template.content;
        // A clock outside the years 1 to 9999 is shown as the epoch rather than refused.
        let created = jiff::Timestamp::try_from(template.created_at).unwrap_or_default();
        Self {
            format: if template.below.is_empty() { WHOLE } else { FORMAT },
            origin: match template.origin {
                Origin::Built => None,
                Origin::Snapshot => Some(SNAPSHOT.to_owned()),
                Origin::Passing => Some(PASSING.to_owned()),
            },
            below: template.below.iter().map(ToString::to_string).collect(),
            id: template.id.to_string(),
            build: template.build.to_string(),
            generation: template.generation,
            created_at: created.to_string(),
            aliases: content.aliases.clone(),
            vcpus: content.resources.vcpus,
            memory_mib: content.resources.memory_mib,
            disk_mib: content.resources.disk_mib,
            user: content.user.clone(),
            workdir: content.workdir.clone(),
            envd_version: content.envd_version.clone(),
            packages: content
                .packages
                .iter()
                .map(|package| Installed {
                    name: package.name.clone(),
                    version: package.version.clone(),
                })
                .collect(),
        }
    }
}
