// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers turbo.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use potluck_protocol::action::Project;
use potluck_protocol::codec::Text;
use potluck_protocol::control::Answer as Known;
use potluck_protocol::entry::{Labels, Output};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::map::{
    ABOUT, About, BODY, Key, MAX_ABOUT_BYTES, MAX_QUERY_BYTES, Operation, Scope, map, queried, recipe,
};
use crate::cache::{Cache as _, Publication, Question};
use crate::engine::Engine;
use crate::front::listen::asked::Asked;
use crate::front::listen::body::{Body, Upload};
use crate::front::listen::{Answer, Door, plain};
use crate::front::parts::{self, Part, PartsError};

/// How long a look-up may take unless the settings say otherwise; turbo itself waits thirty times as long.
const DEADLINE: Duration = Duration::from_secs(1);
/// The longest that turbo may wait for an answer to begin, with the transfer of what was found.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest that a claim may take once the artifact is here.
const CLAIM_WITHIN: Duration = Duration::from_secs(10);

/// Answers one request.
pub(super) async fn serve(door: Door, asked: Asked, upload: Upload) -> Answer {
    let project = asked.project().clone();
    match map(&asked) {
        Err(status) => plain(status),
        Ok(Operation::Status) => json_answer(StatusCode::OK, &json!({ "status": "enabled" })),
        Ok(Operation::Events) => match upload.bytes(MAX_QUERY_BYTES).await {
            Ok(_) => json_answer(StatusCode::OK, &json!({})),
            Err(_) => plain(StatusCode::BAD_REQUEST),
        },
        Ok(Operation::Query(scope)) => query(&door, project, &scope, upload).await,
        Ok(Operation::Get { key, head }) => {
            let given = timeout(PATIENCE, get(&door, project, &key, head)).await;
            given.ok().flatten().unwrap_or_else(|| plain(StatusCode::NOT_FOUND))
        }
        Ok(Operation::Put { key, about }) => match put(&door, project, (&key, &about), upload).await {
            Ok(()) => json_answer(StatusCode::ACCEPTED, &json!({ "urls": [] })),
            Err(error) => {
                tracing::warn!(%error, "an artifact of turbo was not kept");
                plain(StatusCode::NOT_FOUND)
            }
        },
    }
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut answer = plain(status);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *answer.body_mut() = Body::Whole(Bytes::from(value.to_string()));
    answer
}

/// An artifact that is here.
struct Found {
    body: Part,
    about: About,
}

/// What is known under these keys: this client's own if there is one, or else everybody's.
async fn find(door: &Door, project: Project, keys: &[Key]) -> Vec<Option<Found>> {
    let engine = door.engine();
    let both = keys.iter().flat_map(|key| [key.own(), key.shared()]).collect();
    let question = Question { project, recipe: recipe(), keys: both, deadline: door.deadline(DEADLINE) };
    let answers = engine.lookup(question).await.unwrap_or_default();
    let mut found = Vec::with_capacity(keys.len());
    for both in answers.chunks(2) {
        let mut first = None;
        for answer in both {
            if let (None, Known::Hit(output)) = (&first, answer) {
                first = read(engine, output).await;
            }
        }
        found.push(first);
    }
    found
}

async fn read(engine: &Arc<Engine>, output: &Output) -> Option<Found> {
    let tree = parts::tree(engine, output).await?;
    let (body, about) = (parts::part(&tree, BODY)?, parts::part(&tree, ABOUT)?);
    let about = About::decode(&parts::whole(engine, about, MAX_ABOUT_BYTES).await?)?;
    Some(Found { body, about })
}

async fn get(door: &Door, project: Project, key: &Key, head: bool) -> Option<Answer> {
    let Found { body: part, about } = find(door, project, std::slice::from_ref(key)).await.pop()??;
    let body = parts::body(door.engine(), part).await?;
    let mut answer = plain(StatusCode::OK);
    answer.headers_mut().extend(about.headers());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(part.size));
    if !head {
        *answer.body_mut() = body;
    }
    Some(answer)
}

async fn query(door: &Door, project: Project, scope: &Scope, upload: Upload) -> Answer {
    let body = upload.bytes(MAX_QUERY_BYTES).await.ok();
    let Some(keys) = body.and_then(|body| queried(scope, &body)) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let found = timeout(PATIENCE, find(door, project, &keys)).await.unwrap_or_default();
    let mut found = found.into_iter();
    let mut answers = Map::new();
    for key in &keys {
        let about = match found.next().flatten() {
            Some(Found { body, about }) => json!({
                "size": body.size, "taskDurationMs": about.duration.unwrap_or(0), "tag": about.tag,
            }),
            None => Value::Null,
        };
        answers.insert(key.hash().to_owned(), about);
    }
    json_answer(StatusCode::OK, &Value::Object(answers))
}

/// Why an artifact was not kept.
#[derive(Debug, thiserror::Error)]
enum Unkept {
    #[error(transparent)]
    Parts(#[from] PartsError),
    #[error(transparent)]
    Door(#[from] crate::cache::CacheError),
    #[error("it took too long to claim it")]
    Late,
}

async fn put(
    door: &Door,
    project: Project,
    (key, about): (&Key, &About),
    upload: Upload,
) -> Result<(), Unkept> {
    let engine = door.engine();
    let (digest, size) = engine.write(upload.read()).await?;
    let claim = async {
        let body = Part { digest, size };
        let (digest, size) = engine.write(about.encode().as_slice()).await?;
        let output = parts::output(engine, &[(BODY, body), (ABOUT, Part { digest, size })]).await?;
        let publication = |key: Vec<u8>| Publication {
            project: project.clone(),
            recipe: recipe(),
            key,
            output: output.clone(),
            labels: Labels { tool: Text::new("turbo"), cost_ms: about.duration, ..Labels::default() },
            taints: Vec::new(),
        };
        // The first stands for everybody, and is what turbo would have got if it could use it.
        let before = find(door, project.clone(), std::slice::from_ref(key)).await.pop().flatten();
        if before.is_none_or(|found| found.about.tag == about.tag) {
            engine.publish(publication(key.shared())).await?;
        } else {
            engine.publish_over(publication(key.own())).await?;
        }
        Ok(())
    };
    timeout(CLAIM_WITHIN, claim).await.unwrap_or(Err(Unkept::Late))
}
