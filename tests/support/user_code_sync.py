"""Synchronous code as users of the package write it, without a cast; strict type checkers read it as `user_code.py`."""

from __future__ import annotations

from prefect import flow

from prefect_genmedia import Delivery, JimengVideo, Job, JobState, MediaJob, MediaJobRun, TokenOpsCredentials, sync

PORTRAIT, SPEECH, CLIP = "https://example.com/portrait.jpg", "speech.mp3", "s3://bucket/clip.mp4"


@flow
def steps_in_turn(prompt: str) -> str:
    """The tasks in a sync flow, without a cast."""
    request = sync.check_inputs(JimengVideo(prompt=prompt), output="media")
    job = sync.submit_job(request, label="the lake")
    done = sync.wait_for_job(job, timeout_seconds=600)
    return sync.download_result(done, "media").uri


@flow
def every_flow_in_turn(block: TokenOpsCredentials) -> list[str]:
    """The flows as parts of a sync flow."""
    deliveries: list[Delivery] = [
        sync.omnihuman_video(PORTRAIT, SPEECH, subject="largest", credentials=block, output_resolution=720),
        sync.jimeng_video(prompt="a lake", seconds=5, aspect_ratio="16:9"),
        sync.live_poster(image_url=PORTRAIT, scene="youqian", idempotency_key="card"),
        sync.stylize_video(video_url=CLIP, style="ink_wash"),
        sync.generate_media("jimeng", {"prompt": "a lake"}),
        sync.generate(JimengVideo(prompt="a lake"), label="the lake", max_cost=2),
    ]
    detection = sync.detect_subjects(PORTRAIT, credentials=block)
    masks: tuple[str, ...] = sync.select_subject(detection, "leftmost").mask_urls
    report = sync.generate_batch("lakes.csv", kind="jimeng", max_cost=20)
    waiting: int = sync.reconcile_jobs()
    state: JobState = sync.decide_job("3f2a", "abandon")
    print(masks, report.delivered, waiting, state.value, sync.recognize_subject(PORTRAIT).found)
    return [delivery.uri for delivery in deliveries]


@flow
def festival_poster(picture: str) -> str:
    """A stored template, in a sync flow; `save` and `load` are Prefect's."""
    MediaJob(kind="poster", fields={"scene": "youqian"}, output="media/posters").save("festival", overwrite=True)
    run: MediaJobRun = MediaJob.load("festival").trigger({"image_url": picture})
    job: Job = run.wait_for_completion()
    delivery: Delivery = run.fetch_result()
    return f"{job.key} {delivery.uri}"


async def festival_poster_by_hand(picture: str) -> Delivery:
    """The same without a run, and a job that another process has started."""
    job = MediaJob(kind="poster", fields={"scene": "youqian"}, max_cost=3)
    run = await job.atrigger({"image_url": picture}, idempotency_key="festival-2027", variant=1)
    await run.await_for_completion()
    return await MediaJobRun(run.job, credentials=run.credentials, output="media").afetch_result()
