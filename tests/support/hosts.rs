// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts, switches and routers made of network namespaces, so that real nodes meet on real links. All devices live in
//! namespaces that a [`Lab`] makes and removes; nothing of the machine's own network is touched or reached.
//!
//! It needs root, and the programs `ip`, `tc` and `nft` (Debian: iproute2 and nftables).

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::program::Person;

/// Why no hosts can be made here, or nothing if they can.
fn hindrance() -> Option<String> {
    for (program, version) in [("ip", "-V"), ("tc", "-V"), ("nft", "-v")] {
        if Command::new(program).arg(version).output().is_err() {
            return Some(format!("`{program}` is missing (Debian: iproute2 and nftables)"));
        }
    }
    let name = format!("{PREFIX}{}-try", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let _ = Command::new("ip").args(["netns", "del", &name]).output();
    match made {
        Ok(Output { status, .. }) if status.success() => None,
        Ok(Output { stderr, .. }) => Some(String::from_utf8_lossy(&stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// What the names of all our namespaces begin with; the process that made them follows.
const PREFIX: &str = "potluck-";

/// Runs a command that has to go well.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Networks of namespaces. Dropping it ends what runs in them, and removes them.
pub struct Lab {
    spaces: Vec<String>,
    number: u32,
}

/// A namespace with the protocol stack of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    space: String,
}

/// How a router maps what passes from inside to outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// It routes both ways, and maps nothing.
    None,
    /// An inner port keeps its outer one wherever it speaks to, as most home routers do: holes can be punched.
    Keeping,
    /// Each connection gets another outer port, so that nobody can know it beforehand.
    Scattering,
}

/// The network device of a host in one of its networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    host: Host,
    /// Its name in the host.
    pub device: String,
    /// The switch, and the device at its end.
    far: (Host, String),
}

impl Lab {
    /// An empty lab, or nothing, having said why, where none can be made.
    #[must_use]
    #[expect(
        clippy::print_stdout,
        reason = "whoever reads what a test said should know that it showed nothing"
    )]
    pub fn new() -> Option<Self> {
        if let Some(why) = hindrance() {
            println!("skipped: no network namespaces can be made here: {why}");
            return None;
        }
        sweep();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Some(Self { spaces: Vec::new(), number: NUMBER.fetch_add(1, Ordering::Relaxed) })
    }

    /// A host that is connected to nothing.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn host(&mut self, name: &str) -> Host {
        let space = format!("{PREFIX}{}-{}-{name}", std::process::id(), self.number);
        run("ip", &["netns", "add", &space]);
        self.spaces.push(space.clone());
        let host = Host { space };
        // One protocol is enough, and its addresses are there at once.
        host.set("net.ipv6.conf.all.disable_ipv6", "1");
        host.set("net.ipv6.conf.default.disable_ipv6", "1");
        host.ip("link set lo up");
        host
    }

    /// A switch: whoever is plugged in to it is on one local network.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn switch(&mut self, name: &str) -> Host {
        let switch = self.host(name);
        switch.ip("link add lan type bridge forward_delay 0");
        switch.ip("link set lan up");
        switch
    }

    /// Plugs a host in to a switch, with this address and length of the network, `10.0.0.2/24`.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn plug(&self, host: &Host, switch: &Host, address: &str) -> Port {
        let port = self.cable(host, switch);
        host.ip(&format!("addr add {address} brd + dev {}", port.device));
        host.ip(&format!("link set {} up", port.device));
        port
    }

    /// Lays a cable to a switch without an address; it is down.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn cable(&self, host: &Host, switch: &Host) -> Port {
        let device = format!("eth{}", host.devices());
        let far = format!("port{}", switch.devices());
        run(
            "ip",
            &[
                "link",
                "add",
                &device,
                "netns",
                &host.space,
                "type",
                "veth",
                "peer",
                "name",
                &far,
                "netns",
                &switch.space,
            ],
        );
        switch.ip(&format!("link set {far} master lan up"));
        Port { host: host.clone(), device, far: (switch.clone(), far) }
    }

    /// A router between an inner and an outer network: the switch of each, and the router's address there.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn router(&mut self, name: &str, [inner, outer]: [(&Host, &str); 2], nat: Nat) -> Host {
        let router = self.host(name);
        self.plug(&router, inner.0, inner.1);
        let outside = self.plug(&router, outer.0, outer.1);
        router.set("net.ipv4.ip_forward", "1");
        let how = match nat {
            Nat::None => return router,
            Nat::Keeping => "",
            Nat::Scattering => "random,fully-random",
        };
        router.nft("add table ip nat");
        router.nft("add chain ip nat out { type nat hook postrouting priority 100 ; }");
        router.nft(&format!("add rule ip nat out oifname {} masquerade {how}", outside.device));
        // What nobody inside has asked for stays outside.
        router.nft("add table ip guard");
        router.nft("add chain ip guard pass { type filter hook forward priority 0 ; policy accept ; }");
        router.nft(&format!("add rule ip guard pass iifname {} ct state new,invalid drop", outside.device));
        router.nft("add chain ip guard in { type filter hook input priority 0 ; policy accept ; }");
        router.nft(&format!("add rule ip guard in iifname {} ct state new,invalid drop", outside.device));
        router
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in self.spaces.drain(..).rev() {
            remove(&space);
        }
    }
}

/// Ends what runs in a namespace, and removes it with its devices.
fn remove(space: &str) {
    let inside = Command::new("ip").args(["netns", "pids", space]).output();
    let inside =
        inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in inside.split_whitespace() {
        let _ = Command::new("kill").args(["-9", pid]).output();
    }
    let _ = Command::new("ip").args(["netns", "del", space]).output();
}

/// Removes what a test left that was killed: the namespaces of ours whose maker is no more.
fn sweep() {
    for line in run("ip", &["netns", "list"]).lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(maker) = maker.and_then(|maker| maker.parse::<u32>().ok())
            && !std::path::Path::new(&format!("/proc/{maker}")).exists()
        {
            remove(name);
        }
    }
}

impl Host {
    /// `ip` in it, with arguments that are separated by spaces.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        let args: Vec<_> = ["-n", &self.space].into_iter().chain(args.split_whitespace()).collect();
        run("ip", &args)
    }

    /// Sends everything that goes elsewhere to a router.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn through(&self, router: &str) {
        self.ip(&format!("route add default via {router}"));
    }

    /// Somebody without a home yet, whose programs run on this host.
    ///
    /// # Panics
    /// When her folder cannot be made.
    #[must_use]
    pub fn newcomer(&self) -> Person {
        Person::new().inside(&self.space)
    }

    /// Somebody with a home, whose programs run on this host.
    ///
    /// # Panics
    /// When her folder cannot be made.
    #[must_use]
    pub fn person(&self) -> Person {
        let person = self.newcomer();
        person.run(["init", "--comment", "test"]).ok();
        person
    }

    fn inside(&self, command: &[&str]) -> String {
        let args: Vec<_> = ["netns", "exec", &self.space].iter().chain(command).copied().collect();
        run("ip", &args)
    }

    fn set(&self, key: &str, value: &str) {
        let file = format!("/proc/sys/{}", key.replace('.', "/"));
        self.inside(&["sh", "-c", &format!("echo {value} > {file}")]);
    }

    fn nft(&self, rule: &str) {
        self.inside(&["nft", rule]);
    }

    fn devices(&self) -> usize {
        // Its own loopback is one of them.
        self.ip("-o link show").lines().count() - 1
    }
}

impl Port {
    /// Pulls the cable out.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn out(&self) {
        self.far.0.ip(&format!("link set {} down", self.far.1));
    }

    /// Puts it back in.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn back_in(&self) {
        self.far.0.ip(&format!("link set {} up", self.far.1));
    }

    /// Lets no more through in either direction than this many megabits a second, of TCP than so many of them.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn limit_tcp(&self, megabits: u32, tcp: u32) {
        self.shape(&[
            "qdisc add dev DEVICE root handle 1: htb default 10",
            &format!("class add dev DEVICE parent 1: classid 1:10 htb rate {megabits}mbit quantum 15140"),
            &format!("class add dev DEVICE parent 1: classid 1:20 htb rate {tcp}mbit quantum 15140"),
            "qdisc add dev DEVICE parent 1:20 bfifo limit 128k",
            "filter add dev DEVICE parent 1: protocol ip u32 match ip protocol 6 0xff flowid 1:20",
        ]);
    }

    /// Lets no more through in either direction than this many megabits a second.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn limit(&self, megabits: u32) {
        self.shape(&[&format!("qdisc add dev DEVICE root tbf rate {megabits}mbit burst 128kb latency 50ms")]);
    }

    /// `tc` at both ends, where `DEVICE` stands for the one there.
    #[track_caller]
    fn shape(&self, commands: &[&str]) {
        for (host, device) in [(&self.host, &self.device), (&self.far.0, &self.far.1)] {
            for command in commands {
                let command = command.replace("DEVICE", device);
                let args: Vec<_> =
                    ["-n", &host.space].into_iter().chain(command.split_whitespace()).collect();
                run("tc", &args);
            }
        }
    }
}
