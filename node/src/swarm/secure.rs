// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS 1.3 as libp2p speaks it (`/tls/1.0.0`): both sides show a certificate that their peer identity has signed.
//!
//! It is libp2p's own but for three things that libp2p-tls does not let one choose. AES comes before ChaCha20 where the
//! processor has instructions for it, which takes a third of the time. The socket is read in large steps, where rustls
//! by itself asks for four KiB at a time. And nothing of a session is kept for the next one, so that each connection
//! proves both identities anew.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use futures_rustls::rustls::client::Resumption;
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use futures_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use futures_rustls::rustls::server::NoServerSessionStorage;
use futures_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use futures_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use futures_rustls::rustls::{
    self, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;

use super::SwarmError;

/// What the handshake is called where libp2p agrees on one.
pub(super) const PROTOCOL: &str = "/tls/1.0.0";

/// What libp2p calls itself within TLS.
const ALPN: &[u8] = b"libp2p";

/// How this node shows who it is, and learns who others are.
#[derive(Debug, Clone)]
pub(super) struct Secure {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// How many bytes are read from the socket at a time.
    step: usize,
}

/// A connection between two peers that know each other.
pub(super) type Secured<C> = TlsStream<BufReader<C>>;

impl Secure {
    /// With a certificate of its own for this identity, reading `step` bytes at a time.
    ///
    /// # Errors
    /// [`SwarmError::Setup`].
    pub(super) fn new(identity: &Keypair, step: usize) -> Result<Self, SwarmError> {
        let setup = |error: &dyn std::fmt::Display| SwarmError::Setup(error.to_string());
        let (certificate, key) = certificate::generate(identity).map_err(|error| setup(&error))?;
        Self::with(certificate, &key, step).map_err(|error| setup(&error))
    }

    fn with(
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'_>,
        step: usize,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(provider(aes_is_fast()));
        let key = CertifiedKey::new(vec![certificate], aws_lc_rs::sign::any_ecdsa_type(key)?);
        let shown = Arc::new(SingleCertAndKey::from(key));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Peers))
            .with_client_cert_resolver(Arc::clone(&shown) as _);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        // libp2p wants none.
        client.enable_sni = false;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Peers))
            .with_cert_resolver(shown);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), step })
    }

    /// The same, which reads so many bytes at a time.
    pub(super) fn in_steps(&self, step: usize) -> Self {
        Self { step, ..self.clone() }
    }
}

/// Whether AES takes less time than ChaCha20 here.
fn aes_is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The ciphers of TLS 1.3, the fastest first: whoever dials has the say.
fn provider(aes: bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider
        .cipher_suites
        .sort_by_key(|suite| (suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) == aes);
    provider
}

/// Takes any peer that proves to be one. Who it is, is asked afterwards.
#[derive(Debug)]
struct Peers;

/// The schemes of libp2p's specification.
const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];

impl Peers {
    /// The certificate must be the only one, carry a peer's signature, and be signed by itself.
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("a peer has one certificate".to_owned()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }

    fn signed(
        certificate: &CertificateDer<'_>,
        (message, signed): (&[u8], &DigitallySignedStruct),
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn never() -> rustls::Error {
        rustls::Error::General("only TLS 1.3 is spoken".to_owned())
    }
}

impl ServerCertVerifier for Peers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::never())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signed(certificate, (message, signed))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Peers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::never())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signed(certificate, (message, signed))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// Who is at the other end.
fn peer<C>(stream: &Secured<C>) -> io::Result<PeerId> {
    let shown = stream.get_ref().1.peer_certificates();
    let Some([certificate]) = shown else {
        return Err(io::Error::other("the peer has shown no certificate"));
    };
    certificate::parse(certificate).map(|certificate| certificate.peer_id()).map_err(io::Error::other)
}

impl UpgradeInfo for Secure {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C> InboundConnectionUpgrade<C> for Secure
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(self.step, socket);
            let stream = Secured::from(TlsAcceptor::from(self.server).accept(socket).await?);
            Ok((peer(&stream)?, stream))
        }
        .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Secure
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(self.step, socket);
            let nobody = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
            let stream = Secured::from(TlsConnector::from(self.client).connect(nobody, socket).await?);
            Ok((peer(&stream)?, stream))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;

    const STEP: usize = 4096;

    async fn meet(dials: Secure, listens: Secure) -> (io::Result<PeerId>, io::Result<PeerId>) {
        let (one, other) = tokio::io::duplex(1 << 16);
        let dialling = async {
            let (peer, mut stream) = dials.upgrade_outbound(one.compat(), PROTOCOL).await?;
            // In TLS 1.3 whoever dials hears last that it was not wanted.
            futures::AsyncReadExt::read_exact(&mut stream, &mut [0]).await?;
            Ok(peer)
        };
        let listening = async {
            let (peer, mut stream) = listens.upgrade_inbound(other.compat(), PROTOCOL).await?;
            let suite = stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
            assert_eq!(suite != Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256), aes_is_fast());
            futures::AsyncWriteExt::write_all(&mut stream, &[1]).await?;
            futures::AsyncWriteExt::flush(&mut stream).await?;
            Ok(peer)
        };
        tokio::join!(dialling, listening)
    }

    #[tokio::test]
    async fn both_learn_who_the_other_is() {
        let (ann, ben) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (a, b) = (Secure::new(&ann, STEP).unwrap(), Secure::new(&ben, STEP).unwrap());
        let (of_ann, of_ben) = meet(a, b).await;
        assert_eq!(of_ann.unwrap(), ben.public().to_peer_id());
        assert_eq!(of_ben.unwrap(), ann.public().to_peer_id());
    }

    #[tokio::test]
    async fn the_certificate_of_somebody_else_is_of_no_use() {
        let (ann, ben) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        // Everybody can see Ann's certificate, and nobody but she has its key.
        let (shown, _) = certificate::generate(&ann).unwrap();
        let (_, key) = certificate::generate(&ben).unwrap();
        let honest = || Secure::new(&ben, STEP).unwrap();
        let thief = || Secure::with(shown.clone(), &key, STEP).unwrap();
        let (as_dialler, _) = meet(thief(), honest()).await;
        assert!(as_dialler.is_err());
        let (of_listener, _) = meet(honest(), thief()).await;
        assert!(of_listener.is_err());
    }

    #[test]
    fn the_faster_cipher_comes_first() {
        let first = |aes| provider(aes).cipher_suites[0].suite();
        assert_eq!(first(false), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        assert_ne!(first(true), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        assert!(provider(true).cipher_suites.len() == 3);
    }
}
