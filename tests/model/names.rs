//! The domain's values that the model's small numbers stand for, and what the real index says of
//! them. Whatever needs strings is made here, once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use domain::annotations;
use domain::document::{Claim, DocumentId, KvVersion, Mount};
use domain::index::{Index, Memory, Remembered};
use domain::plan::{Contender, Identity};
use domain::settings::{Adopt, DeletionPolicy, NamespaceIsolation, PrefixStyle, Settings};
use domain::source::{Kind, Scope, Source, SourceKey};
use domain::value::{Content, Digest, Digester, Value};
use vault_sync_operator::reconcile::fingerprint;

use super::world::{Author, DOCUMENTS, Object, SOURCES, Set, Text, bit};

/// Everything that has a name.
pub struct Names {
    pub identity: Identity,
    pub keys: [SourceKey; SOURCES],
    /// Their claims.
    pub claims: [Claim; SOURCES],
    pub ids: [DocumentId; DOCUMENTS],
    pub uids: Vec<String>,
    pub foreign: Claim,
    mount: Mount,
    settings: Settings,
    digester: Digester,
    digests: HashMap<(Author, u8), Digest>,
}

pub static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let key = |name: &str| SourceKey {
        kind: Kind::Deployment,
        namespace: "shop".into(),
        name: name.into(),
    };
    let identity = |id: &str| Identity {
        cluster: Some(id.into()),
        cluster_id: id.into(),
        also: Vec::new(),
    };
    let digester = Digester::default();
    let authors = [Author::Foreign, Author::Source(0), Author::Source(1)];
    let texts = authors
        .into_iter()
        .flat_map(|author| (0..=2).map(move |value| (author, value)));
    let digests = texts.map(|text| {
        let content = Content::from([("k".to_owned(), Value::from(format!("{text:?}")))]);
        (text, digester.content(&content))
    });
    Names {
        claims: ["a", "b"].map(|name| identity("ours").claim(&key(name), false)),
        identity: identity("ours"),
        keys: [key("a"), key("b")],
        ids: ["x", "y", "z"].map(|path| DocumentId::new("secret", path)),
        uids: (0..16).map(|uid| format!("u{uid}")).collect(),
        foreign: identity("theirs").claim(&key("c"), false),
        mount: Mount {
            path: "secret".into(),
            version: KvVersion::V2,
        },
        settings: Settings {
            cluster_name: String::new(),
            cluster_prefix: String::new(),
            prefix_style: PrefixStyle::InsideMount,
            isolation: NamespaceIsolation::Off,
            adopt: Adopt::Never,
            adopt_cluster_ids: Vec::new(),
            deletion: DeletionPolicy::Soft,
            max_document_size: None,
            finalizers: true,
            mounts: Vec::new(),
        },
        digests: digests.collect(),
        digester,
    }
});

/// The fingerprint of a content; its edition is the model's secret.
pub fn digest(text: Text) -> Digest {
    NAMES.digests[&(text.author, text.value)]
}

/// A source as those see it who want the same document.
pub fn contender(source: usize, object: Object) -> Contender {
    Contender {
        key: NAMES.keys[source].clone(),
        created: i64::from(object.uid),
        uid: NAMES.uids[usize::from(object.uid)].clone(),
        annotated: object.adopt,
    }
}

fn source(who: usize, object: Object) -> Source {
    let mut said = BTreeMap::from([("secrets".to_owned(), r#"[{"name": "s"}]"#.to_owned())]);
    if object.adopt {
        said.insert("adopt".to_owned(), "true".to_owned());
    }
    if let Some(path) = object.path {
        said.insert(
            annotations::PATH.to_owned(),
            NAMES.ids[usize::from(path)].to_string(),
        );
    }
    Source {
        key: NAMES.keys[who].clone(),
        uid: NAMES.uids[usize::from(object.uid)].clone(),
        created: i64::from(object.uid),
        deleting: object.deleting.then_some(0),
        finalizer: object.finalizer,
        annotations: said,
        references: Vec::new(),
    }
}

/// What an operator's watch has shown it of the sources.
pub type Sights = [Option<Object>; SOURCES];

/// A question to the index. Its answers depend on nothing but what it has been shown, so that each
/// is asked for once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    Observe(usize, Object),
    Forget(usize),
    Sharers(usize, usize),
    Rivals(usize, usize),
}

#[derive(Clone)]
struct Answer {
    wake: Set,
    remembers: bool,
    rivals: Vec<Contender>,
}

thread_local! {
    static ANSWERS: RefCell<HashMap<(Sights, Question), Answer>> = RefCell::default();
}

fn ask(sights: Sights, question: Question) -> Answer {
    ANSWERS.with_borrow_mut(|answers| {
        answers
            .entry((sights, question))
            .or_insert_with(|| answer(sights, question))
            .clone()
    })
}

fn answer(sights: Sights, question: Question) -> Answer {
    let scope = Scope {
        kinds: vec![Kind::Deployment],
        namespaces: Vec::new(),
    };
    let mut index = Index::new(NamespaceIsolation::Off, scope);
    index.lead(&HashSet::new());
    let show = |index: &mut Index, who: usize, object: Object| {
        let source = source(who, object);
        let ask = annotations::parse(&source.annotations);
        index.observe(&source, &ask, fingerprint(&source, &NAMES.digester))
    };
    for (who, object) in sights.into_iter().enumerate() {
        if let Some(object) = object {
            show(&mut index, who, object);
            let mut memory = Memory::default();
            memory.documents.insert(NAMES.ids[0].clone(), remembered());
            index.remember(&NAMES.keys[who], &NAMES.uids[usize::from(object.uid)], memory);
        }
    }
    let keys = &NAMES.keys;
    let (mut rivals, mut remembers) = (Vec::new(), false);
    let woken = match question {
        Question::Observe(who, object) => {
            let woken = show(&mut index, who, object);
            let state = index.state(&keys[who]);
            remembers = state.is_some_and(|state| !state.memory.documents.is_empty());
            woken
        }
        Question::Forget(who) => index.forget(&keys[who]),
        Question::Sharers(me, id) => index.sharers(&keys[me], &NAMES.ids[id]),
        Question::Rivals(me, id) => {
            rivals = index.rivals(&keys[me], &NAMES.mount, &NAMES.ids[id], &[], |key, hint| {
                hint.places(key, &NAMES.mount, &NAMES.settings)
            });
            Vec::new()
        }
    };
    let who = |key: &SourceKey| keys.iter().position(|known| known == key);
    let wake = woken.iter().filter_map(who).fold(0, |set, who| set | bit(who));
    Answer {
        wake,
        remembers,
        rivals,
    }
}

/// Any document, to see whether it is forgotten.
fn remembered() -> Remembered {
    let nothing = NAMES.digester.fields(std::iter::empty());
    Remembered {
        era: 0,
        version: 1,
        content: nothing,
        inputs: nothing,
    }
}

/// Whom [`Index::observe`] wakes (nobody when nothing that decides has changed), and whether it goes
/// on remembering the source's documents.
pub fn observe(sights: Sights, who: usize, object: Object) -> (Set, bool) {
    let answer = ask(sights, Question::Observe(who, object));
    (answer.wake, answer.remembers)
}

/// Whom [`Index::forget`] wakes.
pub fn forget(sights: Sights, who: usize) -> Set {
    ask(sights, Question::Forget(who)).wake
}

/// See [`Index::sharers`].
pub fn sharers(sights: Sights, me: usize, id: usize) -> Set {
    ask(sights, Question::Sharers(me, id)).wake
}

/// See [`Index::rivals`].
pub fn rivals(sights: Sights, me: usize, id: usize) -> Vec<Contender> {
    ask(sights, Question::Rivals(me, id)).rivals
}
