// SPDX-License-Identifier: MIT OR Apache-2.0
//! Networks that this node was made a member of, and which Projects go there. One folder each, `networks/NAME`:
//!
//! | file | what |
//! |---|---|
//! | `network.toml` | [`Network`]: written by the program, readable by people |
//! | `dht.redb` | [`crate::dht`]: what stands on the DHT here, and who the members were; only a cache |
//! | `peer` | this node's identity as a peer there, made on first use; nothing to do with any Signer |

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;

use bytesize::ByteSize;
use potluck_keys::pair::KeyError;
use potluck_keys::ring::{self, RingError};
use potluck_keys::rules::is_name;
use potluck_protocol::action::Project;
use potluck_protocol::admission::AdmissionKey;
use potluck_protocol::digest::Digest;
use potluck_protocol::names::NetworkId;
use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError, read_text};

/// Most Networks of one node.
pub const MAX_NETWORKS: usize = 16;
/// Most Projects that are shared on one Network.
pub const MAX_SHARED: usize = 256;
/// Most addresses of other members that are kept.
pub const MAX_PEERS: usize = 64;
/// Largest network.toml in bytes.
const MAX_FILE_BYTES: usize = 256 * 1024;
/// Longest invitation in bytes.
const MAX_INVITE_BYTES: usize = 8 * 1024;
/// What an invitation starts with.
const INVITE: &str = "potluck-invite:1";

/// Something about a Network is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file cannot be used.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A name was refused.
    #[error("{0:?} is no name for a network: letters, digits, '-', '_' and '.', at most 64")]
    BadName(String),
    /// There is none of that name.
    #[error("there is no network {0:?}")]
    NotFound(String),
    /// There is one of that name already.
    #[error("there is a network {0:?} already")]
    Exists(String),
    /// The line is no invitation.
    #[error("this is no invitation: {0}")]
    BadInvite(&'static str),
    /// There are too many.
    #[error("no more than {0}")]
    TooMany(String),
    /// The file makes no sense.
    #[error("{path}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
}

/// A Network as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// Its name, here and, when it is public, for everyone.
    #[serde(skip)]
    pub name: String,
    /// The key that all members of a private Network know, 64 hexadecimal digits; a public one has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NetworkKey>,
    /// Addresses of members to begin with, each ending in `/p2p/…`.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Where to listen.
    #[serde(default = "everywhere")]
    pub listen: Vec<String>,
    /// Whether to look for members on the local network by mDNS: so do private ones, unless told otherwise.
    #[serde(default)]
    pub mdns: bool,
    /// Projects that are shared here, and nothing else is.
    #[serde(default)]
    pub share: BTreeSet<String>,
    /// What the settings say about it.
    #[serde(skip)]
    pub reach: Reach,
}

/// How members find and reach this node: `[network.NAME]` in config.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reach {
    /// Whether to carry what members send each other that cannot reach each other.
    pub relay: bool,
    /// Whether to look for members on the local network by mDNS; as the Network's own file says if that is left out.
    pub mdns: Option<bool>,
    /// Whether to ask the router for a way in, by UPnP.
    pub upnp: bool,
    /// How many bytes of Blobs a second go to all members together; as many as the line takes if that is left out.
    pub upload: Option<Rate>,
}

/// Bytes a second, at least one; as text, `10MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(pub NonZeroU64);

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = text.trim_end_matches("/s").trim().parse::<ByteSize>().ok();
        let rate = bytes.and_then(|bytes| NonZeroU64::new(bytes.as_u64())).map(Self);
        rate.ok_or_else(|| format!("'{text}' is no number of bytes a second, such as \"10MiB\""))
    }
}

fn everywhere() -> Vec<String> {
    ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"].map(str::to_owned).to_vec()
}

/// What the members of a private Network have in common; whoever has it is one. Its text form is that of a Digest.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey([u8; 32]);

impl std::fmt::Debug for NetworkKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("NetworkKey(…)")
    }
}

impl std::fmt::Display for NetworkKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Digest::from_bytes(self.0).fmt(out)
    }
}

impl FromStr for NetworkKey {
    type Err = potluck_protocol::hex::NotHex;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(*text.parse::<Digest>()?.as_bytes()))
    }
}

impl Serialize for NetworkKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NetworkKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Network {
    /// A Network of that name, with a new key unless it is public.
    ///
    /// # Errors
    /// [`NetworkError::BadName`] or [`NetworkError::Key`].
    pub fn new(name: &str, public: bool) -> Result<Self, NetworkError> {
        check_name(name)?;
        let key = match public {
            true => None,
            false => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(|_| KeyError::NoRandomness)?;
                Some(NetworkKey(key))
            }
        };
        let (peers, share) = (Vec::new(), BTreeSet::new());
        Ok(Self {
            name: name.to_owned(),
            key,
            peers,
            listen: everywhere(),
            mdns: !public,
            share,
            reach: Reach::default(),
        })
    }

    /// Its name on the wire.
    pub fn id(&self) -> NetworkId {
        self.key.as_ref().map_or_else(|| NetworkId::public(&self.name), |key| NetworkId::private(&key.0))
    }

    /// How members know each other; those of a public Network need not.
    pub fn admission(&self) -> Option<AdmissionKey> {
        self.key.as_ref().map(|key| AdmissionKey::of(&key.0))
    }

    /// Whether to look for members on the local network. Who listens on this machine only has none to find there.
    pub fn looks_around(&self) -> bool {
        let local = |address: &String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
        self.reach.mdns.unwrap_or(self.mdns) && !self.listen.iter().all(local)
    }

    /// Whether a Project is shared here.
    pub fn shares(&self, project: &str) -> bool {
        self.share.contains(project)
    }

    /// The line by which others join: the name, the key, and addresses of members, separated by spaces.
    pub fn invite(&self, addresses: &[String]) -> String {
        let key = self.key.as_ref().map_or_else(|| "public".to_owned(), ToString::to_string);
        let mut line = format!("{INVITE} {} {key}", self.name);
        for address in addresses.iter().chain(&self.peers).take(MAX_PEERS) {
            line.push(' ');
            line.push_str(address);
        }
        line
    }

    /// The Network that a line invites to.
    ///
    /// # Errors
    /// [`NetworkError::BadInvite`] or [`NetworkError::BadName`].
    pub fn from_invite(line: &str) -> Result<Self, NetworkError> {
        let rest = line.trim().strip_prefix(INVITE).filter(|_| line.len() <= MAX_INVITE_BYTES);
        let rest = rest.ok_or(NetworkError::BadInvite("it does not start like one, or is too long"))?;
        let mut words = rest.split_whitespace();
        let name = words.next().ok_or(NetworkError::BadInvite("it names no network"))?;
        check_name(name)?;
        let key = match words.next().ok_or(NetworkError::BadInvite("it ends before the key"))? {
            "public" => None,
            key => Some(key.parse().map_err(|_| NetworkError::BadInvite("the key is not 64 digits"))?),
        };
        let peers: Vec<_> = words.map(str::to_owned).collect();
        let address = |text: &String| text.starts_with('/') && text.contains("/p2p/");
        if peers.len() > MAX_PEERS || !peers.iter().all(address) {
            return Err(NetworkError::BadInvite("its addresses are not /…/p2p/…, or too many"));
        }
        let (listen, share) = (everywhere(), BTreeSet::new());
        let mdns = key.is_some();
        Ok(Self { name: name.to_owned(), key, peers, listen, mdns, share, reach: Reach::default() })
    }
}

fn check_name(name: &str) -> Result<(), NetworkError> {
    if is_name(name) { Ok(()) } else { Err(NetworkError::BadName(name.to_owned())) }
}

/// The Networks in a home.
pub struct Networks {
    folder: PathBuf,
}

impl Networks {
    /// Those of `home`.
    pub fn of(home: &Home) -> Self {
        Self { folder: home.root().join("networks") }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("network.toml")
    }

    /// Their names. A folder without its file is what is left of a Network that was left.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn names(&self) -> Result<BTreeSet<String>, NetworkError> {
        let listed = match fs::read_dir(&self.folder) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(source) => return Err(NetworkError::Write { path: self.folder.clone(), source }),
        };
        let names = listed.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter(|name| is_name(name) && self.file(name).exists());
        let names: BTreeSet<_> = names.take(MAX_NETWORKS + 1).collect();
        Ok(names.into_iter().take(MAX_NETWORKS).collect())
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn list(&self) -> Result<Vec<Network>, NetworkError> {
        let names = self.names()?;
        let found = names.iter().map(|name| match self.get(name) {
            // It was left just now.
            Err(NetworkError::NotFound(_)) => Ok(None),
            other => other.map(Some),
        });
        Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn get(&self, name: &str) -> Result<Network, NetworkError> {
        check_name(name)?;
        let path = self.file(name);
        let text = read_text(&path, MAX_FILE_BYTES)?;
        let text = text.ok_or_else(|| NetworkError::NotFound(name.to_owned()))?;
        let file = |message: &str| NetworkError::File { path: path.clone(), message: message.to_owned() };
        let network: Network = toml::from_str(&text).map_err(|error| file(error.message()))?;
        if network.share.len() > MAX_SHARED || network.peers.len() > MAX_PEERS {
            return Err(file("too many projects or peers"));
        }
        if let Some(error) = network.share.iter().find_map(|name| Project::new(name).err()) {
            return Err(file(&error.to_string()));
        }
        Ok(Network { name: name.to_owned(), ..network })
    }

    /// Makes a home member of a Network.
    ///
    /// # Errors
    /// [`NetworkError::Exists`] when there is one of that name.
    pub fn add(&self, network: &Network) -> Result<(), NetworkError> {
        if self.list()?.len() >= MAX_NETWORKS {
            return Err(NetworkError::TooMany(format!("{MAX_NETWORKS} networks")));
        }
        ring::make_folder(&self.folder)?;
        ring::make_folder(&self.folder.join(&network.name))?;
        match ring::write_new(&self.file(&network.name), text(network).as_bytes(), 0o600)? {
            true => Ok(()),
            false => Err(NetworkError::Exists(network.name.clone())),
        }
    }

    /// Puts a changed Network in place of what is there.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn change(&self, network: &Network) -> Result<(), NetworkError> {
        if network.share.len() > MAX_SHARED {
            return Err(NetworkError::TooMany(format!("{MAX_SHARED} projects on one network")));
        }
        let path = self.file(&network.name);
        let folder = path.parent().expect("the file lies in the network's folder");
        let fail = |source| NetworkError::Write { path: path.clone(), source };
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).map_err(fail)?;
        file.write_all(text(network).as_bytes()).map_err(fail)?;
        file.as_file().sync_all().map_err(fail)?;
        file.persist(&path).map_err(|error| fail(error.error))?;
        Ok(())
    }

    /// Forgets a Network, its key, and this node's identity there.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn remove(&self, name: &str) -> Result<(), NetworkError> {
        self.get(name)?;
        let folder = self.folder.join(name);
        fs::remove_dir_all(&folder).map_err(|source| NetworkError::Write { path: folder, source })
    }

    /// Where it is kept what this node remembers of a Network.
    pub fn dht_path(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("dht.redb")
    }

    /// Where this node's identity in a Network is kept.
    pub fn identity_path(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("peer")
    }
}

fn text(network: &Network) -> String {
    toml::to_string(network).expect("a network is a plain table")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        (folder, home)
    }

    #[test]
    fn an_invitation_leads_to_the_same_network() {
        let address = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWabc".to_owned();
        for public in [false, true] {
            let network = Network::new("office", public).unwrap();
            let line = network.invite(std::slice::from_ref(&address));
            let joined = Network::from_invite(&format!("{line}\n")).unwrap();
            assert_eq!((joined.id(), &joined.peers), (network.id(), &vec![address.clone()]));
        }
        assert_ne!(Network::new("a", false).unwrap().id(), Network::new("a", false).unwrap().id());
    }

    #[test]
    fn only_private_networks_look_around_and_none_from_this_machine_alone() {
        let [private, public] = [false, true].map(|public| Network::new("office", public).unwrap());
        assert!(private.looks_around() && !public.looks_around());
        let joined = Network::from_invite(&private.invite(&[])).unwrap();
        assert!(joined.looks_around());
        let local = Network { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], ..joined.clone() };
        assert!(!local.looks_around());
        let told = Reach { mdns: Some(false), ..Reach::default() };
        assert!(!Network { reach: told, ..joined }.looks_around());
    }

    #[test]
    fn what_is_no_invitation_is_refused() {
        let good = Network::new("office", false).unwrap().invite(&[]);
        assert!(Network::from_invite(&good).is_ok());
        for bad in [
            "",
            "potluck-invite:1",
            "potluck-invite:1 office",
            "potluck-invite:1 office 00",
            "potluck-invite:1 ../x public",
            "potluck-invite:1 office public http://x",
            &format!("{good} /p2p/x{}", "x".repeat(MAX_INVITE_BYTES)),
            &format!("{good}{}", " /x/p2p/y".repeat(MAX_PEERS + 1)),
        ] {
            assert!(Network::from_invite(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_kept_changed_and_forgotten() {
        let (_folder, home) = home();
        let networks = Networks::of(&home);
        assert!(networks.list().unwrap().is_empty());
        let mut network = Network::new("office", false).unwrap();
        networks.add(&network).unwrap();
        assert!(matches!(networks.add(&network), Err(NetworkError::Exists(_))));
        network.share.insert("acme/web".to_owned());
        networks.change(&network).unwrap();
        assert_eq!(networks.list().unwrap(), [network]);
        networks.remove("office").unwrap();
        assert!(matches!(networks.get("office"), Err(NetworkError::NotFound(_))));
        for number in 0..MAX_NETWORKS {
            networks.add(&Network::new(&format!("n{number}"), true).unwrap()).unwrap();
        }
        assert!(matches!(networks.add(&Network::new("x", true).unwrap()), Err(NetworkError::TooMany(_))));
    }
}
