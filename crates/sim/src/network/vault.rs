//! The wire to Vault, as the operator's transport knows it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::time::timeout;
use vault_sync_operator::vault::{Broken, Wire};

use super::{Cable, Loss};

impl Wire for Cable {
    fn carry(&self, request: reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, Broken>> {
        let cable = self.clone();
        Box::pin(async move {
            let limit = request.timeout().copied().unwrap_or_default();
            let asked = timeout(limit, cable.ask_vault(request)).await;
            asked.unwrap_or_else(|_| {
                Err(Broken {
                    message: "timed out".to_owned(),
                    timed_out: true,
                    unsent: false,
                })
            })
        })
    }
}

impl Cable {
    async fn ask_vault(self, request: reqwest::Request) -> Result<reqwest::Response, Broken> {
        let body = request.body().and_then(reqwest::Body::as_bytes);
        let body = Bytes::copy_from_slice(body.unwrap_or_default());
        let mut sent = http::Request::new(body);
        *sent.method_mut() = request.method().clone();
        let url = request.url();
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        *sent.uri_mut() = target.parse().unwrap_or_default();
        *sent.headers_mut() = request.headers().clone();
        if let Ok(who) = HeaderValue::from_str(&self.who) {
            sent.headers_mut().insert("x-sim-actor", who);
        }
        let what = format!("vault {} {target}", sent.method());
        let serving = self.send(
            |weather| &weather.vault,
            what,
            move |state, now| state.vault.handle(now, &sent),
        );
        match serving.await {
            Ok(response) => Ok(response.into()),
            Err(Loss::Interfered(status)) => {
                let mut response = http::Response::new(Bytes::from_static(b"interfered"));
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                Ok(response.into())
            }
            Err(loss) => Err(Broken {
                message: format!("{loss:?}"),
                timed_out: false,
                unsent: loss == Loss::Refused,
            }),
        }
    }
}
