//! The order of leaders, against an API server of one ConfigMap.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tower::Service;

use super::*;

const NAME: &str = "vault-sync-operator-ledger-0";

/// The ConfigMap as it is stored, and what somebody else does to it before the next patch arrives.
#[derive(Default)]
struct Stored {
    version: u64,
    annotations: BTreeMap<String, String>,
    data: BTreeMap<String, String>,
    before_patch: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Stored>>);

impl Server {
    fn with(annotations: &[(&str, &str)], data: &[(&str, &str)]) -> Self {
        let own = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            pairs.collect::<BTreeMap<_, _>>()
        };
        Self(Arc::new(Mutex::new(Stored {
            version: 1,
            annotations: own(annotations),
            data: own(data),
            before_patch: None,
        })))
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock()
    }

    fn annotation(&self, name: &str) -> Option<String> {
        self.stored().annotations.get(name).cloned()
    }

    async fn load(&self, epoch: &str, term: Option<&str>) -> Result<Ledger, CommitError> {
        let term = term.map(|text| Term::from_text(text).unwrap());
        Ledger::load(Client::new(self.clone(), "home"), "home", epoch, term).await
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let mut stored = self.stored();
        let object = |stored: &Stored| {
            json!({
                "metadata": {
                    "name": NAME,
                    "resourceVersion": stored.version.to_string(),
                    "annotations": stored.annotations,
                },
                "data": stored.data,
            })
        };
        match *method {
            Method::GET if path.ends_with("/configmaps") => {
                let list = json!({"metadata": {}, "items": [object(&stored)]});
                (StatusCode::OK, list)
            }
            Method::GET => (StatusCode::OK, object(&stored)),
            Method::PATCH => {
                if let Some((epoch, term)) = stored.before_patch.take() {
                    stored.version += 1;
                    stored.annotations.insert(EPOCH.into(), epoch.into());
                    stored.annotations.insert(TERM.into(), term.into());
                }
                let change: Value = serde_json::from_slice(body).unwrap();
                if change["metadata"]["resourceVersion"] != stored.version.to_string().as_str() {
                    let status =
                        json!({"status": "Failure", "code": 409, "reason": "Conflict", "message": "m"});
                    return (StatusCode::CONFLICT, status);
                }
                stored.version += 1;
                let Stored {
                    annotations, data, ..
                } = &mut *stored;
                merge(annotations, &change["metadata"]["annotations"]);
                merge(data, &change["data"]);
                (StatusCode::OK, object(&stored))
            }
            _ => panic!("{method} {path}"),
        }
    }
}

fn merge(into: &mut BTreeMap<String, String>, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        match value.as_str() {
            Some(text) => into.insert(key.clone(), text.to_owned()),
            None => into.remove(key),
        };
    }
}

impl Service<Request<Body>> for Server {
    type Response = Response<Full<bytes::Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        // The bodies of requests are whole from the start.
        let body = futures_util::FutureExt::now_or_never(body.collect()).unwrap();
        let (status, answer) = self.answer(&head.method, head.uri.path(), &body.unwrap().to_bytes());
        let answer = Full::new(answer.to_string().into());
        ready(Ok(Response::builder().status(status).body(answer).unwrap()))
    }
}

#[tokio::test]
async fn a_leader_whose_ledger_took_long_to_load_does_not_stamp_over_a_later_one() {
    let server = Server::with(&[], &[]);
    server.stored().before_patch = Some(("b", "4/u-1"));
    let error = server.load("a", Some("3/u-1")).await.err().unwrap();
    assert!(
        matches!(&error, CommitError::Fenced(who) if who == "b"),
        "{error}"
    );
    assert_eq!(server.annotation(EPOCH), Some("b".to_owned()));
    assert_eq!(server.annotation(TERM), Some("4/u-1".to_owned()));
}

#[tokio::test]
async fn who_may_take_the_ledger_over() {
    for (what, stored, ours, may) in [
        ("an earlier leader's", "2/u-1", Some("3/u-1"), true),
        ("its own", "3/u-1", Some("3/u-1"), true),
        ("a later leader's", "4/u-1", Some("3/u-1"), false),
        ("one of a Lease that is no more", "4/u-0", Some("0/u-1"), true),
        ("without an election", "4/u-1", None, true),
        ("garbage", "soon", Some("3/u-1"), true),
    ] {
        let server = Server::with(&[(EPOCH, "b"), (TERM, stored)], &[]);
        let loaded = server.load("a", ours).await;
        assert_eq!(loaded.is_ok(), may, "{what}: {:?}", loaded.err());
        let epoch = if may { "a" } else { "b" };
        assert_eq!(server.annotation(EPOCH).as_deref(), Some(epoch), "{what}");
    }
}

#[tokio::test]
async fn the_order_outlives_a_good_bye() {
    let server = Server::with(&[], &[]);
    let ledger = server.load("b", Some("4/u-1")).await.unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    ledger.keep(stop).await.unwrap();
    assert_eq!(server.annotation(EPOCH), None);
    let error = server.load("a", Some("3/u-1")).await.err().unwrap();
    assert!(
        matches!(&error, CommitError::Fenced(who) if who == "a later leader"),
        "{error}"
    );
    assert_eq!(server.annotation(EPOCH), None);
}

#[tokio::test]
async fn a_line_of_a_newer_version_is_kept_as_it_is_and_its_document_left_alone() {
    let id = DocumentId::new("secret", "app");
    let key = data_key(&id);
    let line = r#"{"mount":"secret","path":"app","kind":"Deployment","namespace":"shop","name":"web","uid":"u-1","state":"archived","since":1,"deletion":"soft"}"#;
    let server = Server::with(&[], &[(&key, line), ("garbage", "no JSON")]);
    let ledger = server.load("a", None).await.unwrap();
    let kept = || server.stored().data.clone();
    let expected = BTreeMap::from([(key.clone(), line.to_owned())]);
    assert_eq!(kept(), expected);
    assert_eq!((ledger.newer(), ledger.get(&id)), (1, None));
    assert_eq!(ledger.holders(), []);
    let changes = vec![(id.clone(), None)];
    let refused = ledger.commit(changes).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the ledger's entry of secret/app was written by a newer version of this operator; run that version, or delete the entry"
    );
    // Somebody edits the ConfigMap, so that all of it is written anew.
    {
        let mut stored = server.stored();
        stored.version += 1;
        stored.data.clear();
    }
    let stop = CancellationToken::new();
    stop.cancel();
    ledger.keep(stop).await.unwrap();
    assert_eq!(kept(), expected);
}
