// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where this node serves tools that speak HTTP, as the settings of its home say.

use potluck_node::config::Http;
use potluck_node::front::http::socket::serve::path as ccache_socket;
use potluck_node::home::Home;
use potluck_protocol::action::Project;

use super::Surroundings;
use crate::failure::Failure;

/// The URL of a Front, without a slash at its end.
pub(super) fn url(around: &Surroundings, front: &str) -> Result<String, Failure> {
    let http = Home::locate(Some(around.home.clone()))?.config()?.http;
    of(&http, front).map_err(|why| Failure::failed(format!("tools cannot be told where this node is: {why}")))
}

/// Where ccache finds this node without HTTP; none where the path cannot be written into its settings or is too long for
/// a socket.
pub(super) fn ccache(around: &Surroundings) -> Result<Option<String>, Failure> {
    /// What the system takes as the path of a socket (`sun_path`), with its end, on the systems that take least.
    const MAX_PATH: usize = 104;
    let home = Home::locate(Some(around.home.clone()))?;
    let path = ccache_socket(&home, &Project::default());
    let text = path.to_str().filter(|text| text.len() < MAX_PATH);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~+@".contains(&byte);
    Ok(text.filter(|text| text.bytes().all(plain)).map(|text| format!("crsh:{text}")))
}

fn of(http: &Http, front: &str) -> Result<String, &'static str> {
    if http.listen == Http::OFF {
        return Err("[http] listen in config.toml is \"off\"");
    }
    if http.listen.ends_with(":0") {
        return Err("[http] listen in config.toml names no port, so that it is another one at each start");
    }
    if !http.token.is_empty() {
        return Err(
            "[http] in config.toml has a token, which would have to be written into the tool's settings",
        );
    }
    Ok(format!("http://{}/{front}", http.listen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_told_an_address_that_lasts() {
        let with = |listen: &str, token: &str| {
            of(&Http { listen: listen.to_owned(), token: token.to_owned(), hosts: Vec::new() }, "nx")
        };
        assert_eq!(of(&Http::default(), "ccache").unwrap(), "http://127.0.0.1:7117/ccache");
        assert_eq!(with("[::1]:80", "").unwrap(), "http://[::1]:80/nx");
        for (listen, token) in [("off", ""), ("127.0.0.1:0", ""), ("127.0.0.1:7117", "sesame")] {
            assert!(with(listen, token).is_err(), "{listen}");
        }
    }
}
