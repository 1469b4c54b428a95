//! What claims to be the installation's, by label or name, and isn't. It is reported and never touched.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptionsBuilder,
    ListVolumesOptionsBuilder,
};

use super::Docker;
use crate::error::Error;

/// A resource with the installation's label, or a name with its prefix, that isn't the installation's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Foreign {
    /// `container`, `volume`, `network` or `image`.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

impl Foreign {
    /// All kinds.
    pub(crate) const KINDS: [&'static str; 4] = ["container", "volume", "network", "image"];
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One filter of a list: by label or by name.
type Filter = HashMap<String, Vec<String>>;

impl Docker {
    /// Everything that claims to be the installation's and isn't. One list of each kind without a filter finds it both by
    /// label and by name.
    pub(crate) async fn foreign(&self) -> Result<BTreeSet<Foreign>, Error> {
        let (mut foreign, volumes, networks, images) = tokio::try_join!(
            self.foreign_containers(),
            self.foreign_volumes(),
            self.foreign_networks(),
            self.all_foreign_images()
        )?;
        foreign.extend(volumes.into_iter().chain(networks).chain(images));
        Ok(foreign)
    }

    async fn foreign_containers(&self) -> Result<BTreeSet<Foreign>, Error> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let list = self.read("list containers", self.client()?.list_containers(Some(options))).await?;
        let foreign = list.into_iter().filter_map(|container| {
            let labels = container.labels.unwrap_or_default();
            let names = container.names.unwrap_or_default();
            let names: Vec<&str> = names.iter().map(|name| name.trim_start_matches('/')).collect();
            let owns =
                |name: &str| self.names.owns_instance(name, &labels) || self.names.owns_holder(name, &labels);
            let owned = names.iter().any(|name| owns(name));
            let claimed = names.iter().any(|name| self.names.is_claimed(name, &labels));
            let name = names.first().map(|name| (*name).to_owned()).or(container.id);
            (claimed && !owned).then(|| Foreign { kind: "container", name: name.unwrap_or_default() })
        });
        Ok(foreign.collect())
    }

    async fn foreign_volumes(&self) -> Result<BTreeSet<Foreign>, Error> {
        let options = ListVolumesOptionsBuilder::new().build();
        let list = self.read("list volumes", self.client()?.list_volumes(Some(options))).await?;
        let claimed = list.volumes.unwrap_or_default().into_iter().filter(|volume| {
            self.names.is_claimed(&volume.name, &volume.labels)
                && !self.names.owns_instance(&volume.name, &volume.labels)
                && !self.names.owns_memory(&volume.name, &volume.labels)
        });
        Ok(claimed.map(|volume| Foreign { kind: "volume", name: volume.name }).collect())
    }

    async fn foreign_networks(&self) -> Result<BTreeSet<Foreign>, Error> {
        let options = ListNetworksOptionsBuilder::new().build();
        let list = self.read("list networks", self.client()?.list_networks(Some(options))).await?;
        let foreign = list.into_iter().filter_map(|network| {
            let (name, labels) = (network.name.unwrap_or_default(), network.labels.unwrap_or_default());
            let foreign = self.names.is_claimed(&name, &labels) && !self.names.owns_network(&name, &labels);
            foreign.then_some(Foreign { kind: "network", name })
        });
        Ok(foreign.collect())
    }

    /// Docker finds images by one filter at a time, and shows intermediate ones without any.
    async fn all_foreign_images(&self) -> Result<BTreeSet<Foreign>, Error> {
        let own: HashSet<String> = self.own_images().await?.into_iter().map(|image| image.name).collect();
        let by_name = HashMap::from([("reference".to_owned(), vec![format!("{}*", self.names.prefix())])]);
        let mut foreign = BTreeSet::new();
        for filter in [self.label_filter(), by_name] {
            self.foreign_images(&filter, &own, &mut foreign).await?;
        }
        Ok(foreign)
    }

    async fn foreign_images(
        &self,
        filter: &Filter,
        own: &HashSet<String>,
        all: &mut BTreeSet<Foreign>,
    ) -> Result<(), Error> {
        let options = ListImagesOptionsBuilder::new().filters(filter).build();
        let list = self.read("list images", self.client()?.list_images(Some(options))).await?;
        for image in list {
            let named = image.repo_tags.into_iter().filter(|tag| !tag.starts_with("<none>"));
            let mut named: Vec<String> = named.collect();
            if named.is_empty() {
                named.push(image.id);
            }
            let claimed = named.into_iter().filter(|name| self.names.is_claimed(name, &image.labels));
            let foreign = claimed.filter(|name| !own.contains(name));
            all.extend(foreign.map(|name| Foreign { kind: "image", name }));
        }
        Ok(())
    }
}
