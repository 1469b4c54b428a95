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
    /// Everything that claims to be the installation's and isn't.
    pub(crate) async fn foreign(&self) -> Result<BTreeSet<Foreign>, Error> {
        let mut foreign = BTreeSet::new();
        for filter in [self.label_filter(), self.name_filter("name", self.names.prefix())] {
            self.foreign_containers(&filter, &mut foreign).await?;
            self.foreign_volumes(&filter, &mut foreign).await?;
            self.foreign_networks(&filter, &mut foreign).await?;
        }
        let own: HashSet<String> = self.own_images().await?.into_iter().map(|image| image.name).collect();
        for filter in
            [self.label_filter(), self.name_filter("reference", format!("{}*", self.names.prefix()))]
        {
            self.foreign_images(&filter, &own, &mut foreign).await?;
        }
        Ok(foreign)
    }

    /// Docker's filters for names match anywhere in the name.
    fn name_filter(&self, key: &str, name: String) -> Filter {
        HashMap::from([(key.to_owned(), vec![name])])
    }

    async fn foreign_containers(&self, filter: &Filter, all: &mut BTreeSet<Foreign>) -> Result<(), Error> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(filter).build();
        let list = self.read("list containers", self.client()?.list_containers(Some(options))).await?;
        for container in list {
            let labels = container.labels.unwrap_or_default();
            let names = container.names.unwrap_or_default();
            let names: Vec<&str> = names.iter().map(|name| name.trim_start_matches('/')).collect();
            let owns =
                |name: &str| self.names.owns_instance(name, &labels) || self.names.owns_holder(name, &labels);
            let owned = names.iter().any(|name| owns(name));
            let claimed = names.iter().any(|name| self.names.is_claimed(name, &labels));
            if claimed && !owned {
                let name = names.first().map(|name| (*name).to_owned()).or(container.id);
                all.insert(Foreign { kind: "container", name: name.unwrap_or_default() });
            }
        }
        Ok(())
    }

    async fn foreign_volumes(&self, filter: &Filter, all: &mut BTreeSet<Foreign>) -> Result<(), Error> {
        let options = ListVolumesOptionsBuilder::new().filters(filter).build();
        let list = self.read("list volumes", self.client()?.list_volumes(Some(options))).await?;
        for volume in list.volumes.unwrap_or_default() {
            let claimed = self.names.is_claimed(&volume.name, &volume.labels);
            let owned = self.names.owns_instance(&volume.name, &volume.labels)
                || self.names.owns_memory(&volume.name, &volume.labels);
            if claimed && !owned {
                all.insert(Foreign { kind: "volume", name: volume.name });
            }
        }
        Ok(())
    }

    async fn foreign_networks(&self, filter: &Filter, all: &mut BTreeSet<Foreign>) -> Result<(), Error> {
        let options = ListNetworksOptionsBuilder::new().filters(filter).build();
        let list = self.read("list networks", self.client()?.list_networks(Some(options))).await?;
        for network in list {
            let (name, labels) = (network.name.unwrap_or_default(), network.labels.unwrap_or_default());
            if self.names.is_claimed(&name, &labels) && !self.names.owns_network(&name, &labels) {
                all.insert(Foreign { kind: "network", name });
            }
        }
        Ok(())
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
