//! TLS in front of a server that has none: its certificate, and whose clients it lets in, can change.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::certs::{Authority, Identity};
use super::port::Port;
use super::runtime;

pub struct Front {
    port: Port,
    target: u16,
}

impl Front {
    /// Shows this certificate, and asks for none.
    pub fn to(target: u16, identity: &Identity) -> Self {
        let front = Self {
            port: Port::new(),
            target,
        };
        front.change(identity, None);
        front
    }

    /// Shows another certificate from now on, and, if there is an authority, lets in only clients that
    /// show one of that authority's. Connections that exist break.
    pub fn change(&self, identity: &Identity, clients: Option<&Authority>) {
        // It installs the TLS provider.
        runtime();
        let config = match clients {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                for cert in certificates(&authority.cert()) {
                    roots.add(cert).unwrap();
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                ServerConfig::builder().with_client_cert_verifier(verifier.unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let config = config
            .with_single_cert(certificates(&identity.cert), key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let target = self.target;
        self.port.close();
        self.port.open(move |client| {
            let acceptor = acceptor.clone();
            async move {
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                Ok(())
            }
        });
    }

    pub fn number(&self) -> u16 {
        self.port.number
    }

    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port.number)
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(file).unwrap();
    found.map(Result::unwrap).collect()
}
