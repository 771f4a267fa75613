"""Code as users of the package write it. `make check` reads it with a strict type checker, by nothing but what the
package itself says of its types: without our settings, and without pydantic's plugin.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import SecretStr

from prefect_genmedia import (
    Delivery,
    Detection,
    GenerationRequest,
    GenMediaError,
    GenMediaSettings,
    HiDreamCredentials,
    InputRefused,
    InvalidRequest,
    JeniusCredentials,
    JimengVideo,
    Job,
    JobState,
    LivePoster,
    OmniHumanVideo,
    RateLimited,
    StylizedVideo,
    SubmissionUnknown,
    TokenOpsCredentials,
    chain_media,
    check_inputs,
    current_settings,
    decide_job,
    detect_subjects,
    download_result,
    generate_batch,
    generate_media,
    jimeng_video,
    live_poster,
    omnihuman_video,
    recognize_subject,
    reconcile_jobs,
    select_subject,
    stylize_video,
    submit_job,
    wait_for_job,
)
from prefect_genmedia.generate import generate
from prefect_genmedia.tasks import submit

PORTRAIT, SPEECH, CLIP = "https://example.com/portrait.jpg", "speech.mp3", "s3://bucket/clip.mp4"


def store_credentials() -> TokenOpsCredentials:
    """Blocks; a key is a `SecretStr` to a type checker, and may be plain text to Python."""
    JeniusCredentials(api_key=SecretStr("your-key"), max_in_flight=4).save("default", overwrite=True)
    HiDreamCredentials(token=SecretStr("your-token"), user_id="7").save("by-token", overwrite=True)
    HiDreamCredentials(api_key=SecretStr("your-key"), submissions_per_minute=2).save("default", overwrite=True)
    return TokenOpsCredentials(api_key=SecretStr("sk-your-key"), base_url="https://gateway.example.com/v1")


def every_request() -> list[GenerationRequest]:
    """Each request with what it must have, and with something that it may have."""
    return [
        JimengVideo(prompt="a lake at dawn"),
        JimengVideo(model="jimeng-video-3.0-720P", image_urls=("first.png", "last.png"), seconds=10, seed=7),
        OmniHumanVideo(image_url=PORTRAIT, audio_url=SPEECH),
        OmniHumanVideo(image_url=PORTRAIT, audio_url=SPEECH, prompt="smiles", output_resolution=720),
        LivePoster(image_url=PORTRAIT, scene="firework"),
        StylizedVideo(video_url=CLIP, style="ink_wash"),
        StylizedVideo(video_url=CLIP, prompt="like a woodcut"),
    ]


@flow
async def steps(prompt: str, output: str = "media") -> str:
    """The tasks in an async flow."""
    request = JimengVideo(prompt=prompt)
    await check_inputs(request)
    job = await submit_job(request, idempotency_key="lake", variant=1, label="the lake")
    done: Job = await wait_for_job(job, timeout_seconds=600)
    delivery: Delivery = await download_result(done, output)
    return f"{delivery.uri} {delivery.seconds:.1f} {delivery.poster_uri or ''}"


@flow
async def tail(prompt: str) -> float:
    """What every flow ends with, as a part of one's own."""
    delivery = await generate(JimengVideo(prompt=prompt), label="the lake")
    return delivery.seconds


@flow
def futures(prompt: str) -> str:
    """Futures in a sync flow: Prefect's own annotations call what comes of an async task a coroutine."""
    job = cast(Job, submit_job.submit(JimengVideo(prompt=prompt)).result())
    done = cast(Job, wait_for_job.submit(job).result())
    return cast(Delivery, download_result.submit(done, "media").result()).uri


@flow
async def who_speaks(block: TokenOpsCredentials) -> tuple[str, ...]:
    """The tasks that look at a picture."""
    await recognize_subject(PORTRAIT, credentials=block)
    detection: Detection = await detect_subjects(PORTRAIT, credentials=block)
    selection = await select_subject(detection, "leftmost", credentials=block)
    return selection.mask_urls


@flow
async def every_flow(block: TokenOpsCredentials) -> list[str]:
    """The flows as parts of a flow, with what they return."""
    avatar = await omnihuman_video(PORTRAIT, SPEECH, subject="largest", credentials=block, output="media/avatar.mp4")
    deliveries: list[Delivery] = [
        avatar,
        await jimeng_video(prompt="a lake", seconds=5, aspect_ratio="16:9", credentials="default"),
        await live_poster(image_url=PORTRAIT, scene="youqian", idempotency_key="card"),
        await stylize_video(video_url=CLIP, style="ink_wash"),
        await generate_media("jimeng", {"prompt": "a lake"}),
    ]
    await submit(JimengVideo(prompt="by the old name of submit_job"))
    report = await generate_batch([{"id": "lake", "prompt": "a lake"}], kind="jimeng", max_cost=20)
    print(report.delivered, report.estimated_cost, report.results)
    await generate_batch([{"id": "lake", "prompt": "a lake"}], kind="jimeng", credentials=["studio-a", "studio-b"])
    names: list[str] = ["studio-a", "studio-b"]
    await generate_batch("lakes.csv", credentials=[*names, TokenOpsCredentials(api_key=SecretStr("sk-…"))])
    await generate_batch("lakes.csv", credentials=names)
    await reconcile_jobs()
    await decide_job("3f2a", "adopt", "10762451179911711518")
    return [delivery.uri for delivery in deliveries]


async def what_went_wrong() -> str:
    """Errors, and what they hold."""
    try:
        delivery = await live_poster(image_url=PORTRAIT, scene="real_cake")
    except SubmissionUnknown as error:
        return f"{error.job_key or ''} {error.paid} {error.next_step}"
    except InvalidRequest as error:
        return "; ".join(f"{problem.field}: {problem.problem}" for problem in error.problems)
    except RateLimited as error:
        return f"again after {error.retry_after or 0.0:.0f} s"
    except InputRefused as error:
        return error.code or str(error)
    except GenMediaError as error:
        return f"{error.kind} {error.provider_job_id or ''} {error.http_status or 0} {error.retryable}"
    return delivery.uri


async def polled(job: Job) -> bool:
    """Values and settings."""
    settings: GenMediaSettings = current_settings()
    state: State[str] = await steps("a lake", return_state=True)
    return job.state is JobState.DELIVERED and state.is_completed() and settings.allow_private_hosts


if __name__ == "__main__":
    delivered = asyncio.run(omnihuman_video(image_url=PORTRAIT, audio_url=SPEECH, output="media/avatars"))
    print(delivered.uri, delivered.seconds, delivered.sha256)
    print(asyncio.run(steps("a lake at dawn")), futures("a lake at dawn"), asyncio.run(what_went_wrong()))
    steps.serve(name="every-morning", cron="0 8 * * *", parameters={"prompt": "a lake at dawn"})


@flow
async def ink_lake() -> str:
    """A chain: the file of each step is the input of the next."""
    steps: list[dict[str, Any]] = [{"kind": "stylize", "style": "ink_wash"}]
    delivery: Delivery = await chain_media("jimeng", {"prompt": "a lake at dawn"}, steps, idempotency_key="dawn")
    return delivery.uri
