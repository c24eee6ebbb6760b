//! Two services for tests of requests: one answers questions, some of them late; one asks.

use std::time::Duration;

use brickwork::prelude::*;

/// A question.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// The number that the answer repeats.
    pub n: u64,
    /// Delay of the answer in milliseconds.
    pub ms: u64,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The number of the question.
    pub n: u64,
}

const QUESTIONS: Input<Question, Answer> = Input::new("questions");

/// Logs each question and answers it after its delay.
pub struct Answerer;

impl Service for Answerer {
    const NAME: &'static str = "answerer";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&QUESTIONS);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Question, Answer> for Answerer {
    async fn handle(&mut self, question: Question, _: &mut Context) -> Result<Answer, Failure> {
        tracing::info!("asked {}", question.n);
        tokio::time::sleep(Duration::from_millis(question.ms)).await;
        Ok(Answer { n: question.n })
    }
}

/// An instruction for an [`Asker`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Errand {
    /// The number to ask for and to emit.
    pub n: u64,
    /// Abort the process once the answer is there.
    pub abort: bool,
}

const ERRANDS: Input<Errand> = Input::new("in");
const ASK: Request<Question, Answer> = Request::new("ask");
const OUT: Output<Answer> = Output::new("out");

/// Asks a question while it handles each message.
pub struct Asker;

impl Service for Asker {
    const NAME: &'static str = "asker";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&ERRANDS).request(&ASK).output(&OUT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Errand> for Asker {
    async fn handle(&mut self, errand: Errand, cx: &mut Context) -> Result<(), Failure> {
        let question = Question { n: errand.n, ms: 0 };
        let answer = cx.ask(&ASK, question).await?;
        if errand.abort {
            std::process::abort();
        }
        cx.emit(&OUT, answer)
    }
}
