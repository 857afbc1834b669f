//! What ends the operator.

use super::*;

#[tokio::test]
async fn a_task_that_ends_however_ends_the_operator() {
    let mut tasks = Tasks::new();
    tasks.spawn(async { panic!("a test") });
    assert_eq!(
        first_to_end(&mut tasks).await.to_string(),
        "a task has panicked, which is a bug"
    );
    tasks.spawn(async { Ok(()) });
    assert_eq!(
        first_to_end(&mut tasks).await.to_string(),
        "a task has ended early, which is a bug"
    );
    tasks.spawn(async { Err(Error::Ended("this".to_owned())) });
    assert_eq!(first_to_end(&mut tasks).await.to_string(), "this");

    let writer = tokio::spawn(async { panic!("a test") }).await;
    assert_eq!(
        life::writer_ended(&writer).to_string(),
        "the writer of Events has panicked, which is a bug"
    );
}
