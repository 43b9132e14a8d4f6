"""Pictures of each page, light and dark, on desktop and phone: `python -m tests.browser.screenshots <folder>`."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.chromium import DESKTOP, PHONE, Visit
from tests.journeys.portal_process import ADMIN_PASSWORD, PortalProcess, Session

START_S = 6
OF_ADMINS = {
    "welcome": "/welcome",
    "usage-of-all": "/usage",
    "admin": "/admin/",
    "admin-settings": "/admin/settings/",
    "admin-changes": "/admin/admin/logentry/",
    "admin-audits": "/admin/inference/auditrun/",
    "admin-users": "/admin/accounts/user/",
    "admin-user": "/admin/accounts/user/2/change/",
    "admin-user-delete": "/admin/accounts/user/2/delete/",
    "admin-import": "/admin/accounts/user/import/",
    "admin-groups": "/admin/auth/group/",
    "admin-keys": "/admin/accounts/apikey/",
    "admin-key-add": "/admin/accounts/apikey/add/",
    "admin-engines": "/admin/engines/engine/",
    "admin-engine": "/admin/engines/engine/{id}/change/",
    "admin-gpus": "/admin/engines/gpu/",
    "admin-cached-models": "/admin/cached-models/",
    "admin-records": "/admin/inference/usagerecord/",
    "admin-conversations": "/admin/inference/conversation/",
    "api": "/api/v1/engines",
    "api-docs": "/api/docs",
}
SETTINGS = {"launcher": "simulator", "stop_engines_on_exit": "true", "reconcile_seconds": 0.5}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        spoil(Path(directory))
        portal = PortalProcess(Path(directory), **SETTINGS, simulator_args=f"--simulate-start-seconds={START_S}")
        try:
            engine_id = cast(portal.start())
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                for scheme in ("light", "dark"):
                    for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
                        pictures(browser, portal, engine_id, folder, f"{scheme}-{name}", size, scheme)
        finally:
            portal.stop()


def spoil(directory: Path) -> None:
    """An engine that has failed, of a portal in which all of them do; the portal of the pictures takes it over."""
    portal = PortalProcess(directory, **SETTINGS, simulator_args="--simulate-start-failure=kv-cache")
    try:
        alice = portal.start().admin().add_user("alice", "correct horse")
        alice.post("/vllm_request/start", Model="meta-llama/Llama-3.1-8B-Instruct")
    finally:
        portal.stop()


def cast(portal: PortalProcess) -> str:
    """Engines of two people, in several states. The id of one that is ready."""
    bob = portal.admin().add_user("bob", "correct horse")
    alice = portal.log_in("alice", "correct horse")
    terms = {"shared_users": ["bob"], "lease_hours": 8, "idle_minutes": 60}
    ready = alice.post("/api/v1/engines", model="Qwen/Qwen2.5-0.5B-Instruct", **terms).json()["id"]
    portal.wait_for(lambda: alice.get(f"/api/v1/engines/{ready}").json()["idle_stop_at"], 60, "the engine to be idle")
    ended = alice.post("/vllm_request/start", Model="facebook/opt-125m").json()
    alice.post("/vllm_request/terminate", container_id=ended["container_id"])
    asleep = alice.post("/vllm_request/start", Model="mistralai/Mistral-7B-Instruct-v0.3").json()["engine_id"]
    portal.change_rows(
        "update engines_engine set state = 'STOPPING', desired = 'sleep', cause_code = 'idle', "
        "cause = 'It had no request for 60 minutes.', advice = 'The next request wakes it.' where id = ?",
        asleep.replace("-", ""),
    )
    portal.wait_for(lambda: alice.get(f"/api/v1/engines/{asleep}").json()["state"] == "ASLEEP", 30, "one to sleep")
    notes = "For the exam: one GPU, two hours."
    alice.post("/api/v1/recipes", name="exam", engine=ready, notes=notes, lease_hours=2)
    options = {"seed": 7, "adapters": [{"name": "sql", "model": "acme/mistral-sql"}]}
    portal.admin().post("/api/v1/recipes", name="course", model="mistralai/Mistral-7B-v0.3", published=True, **options)
    bob.post("/vllm_request/start", Model="sentence-transformers/all-MiniLM-L6-v2", shared=True)
    return ready


def pictures(browser, portal: PortalProcess, engine_id: str, folder: Path, kind: str, size: dict, scheme: str) -> None:
    visit = Visit(browser, portal.url, viewport=size, color_scheme=scheme)
    take = lambda name: visit.page.screenshot(path=folder / f"{name}-{kind}.png", full_page=True)  # noqa: E731
    for name, path in (("front", "/"), ("login", "/login")):
        visit.page.goto(path)
        take(name)
    visit.log_in("alice", "correct horse")
    alice: Session = portal.log_in("alice", "correct horse")
    rising = alice.post("/vllm_request/start", Model="Qwen/Qwen2.5-0.5B-Instruct", wait=False).json()
    visit.page.wait_for_selector(".engine-LOADING")
    time.sleep(1)  # that the bar of its start shows something
    visit.page.goto("/")
    take("home")
    alice.post("/vllm_request/terminate", container_id=rising["container_id"])
    visit.page.goto(f"/engine/{engine_id}")
    visit.page.wait_for_selector("#log-text > span")
    for name in ("How long it stays", "Share it"):
        visit.page.click(f"summary >> text={name}")
    take("engine")
    visit.page.goto("/engine/new?model=facebook/opt-125m")
    visit.page.wait_for_selector("#verdict .fits")
    take("start")
    visit.page.goto("/recipes")
    take("recipes")
    visit.page.click(".card a.button >> nth=0")
    visit.page.wait_for_selector("#verdict .fits")
    take("start-recipe")
    visit.page.goto("/playground")
    visit.page.fill("[data-prompt]", "What is a token?")
    visit.page.press("[data-prompt]", "Enter")
    visit.page.wait_for_selector(".turn:not(.busy) .stats")
    take("playground")
    for name, path in (("usage", "/usage"), ("keys", "/keys"), ("password", "/password"), ("not-found", "/nothing")):
        visit.page.goto(path)
        take(name)
    visit.close()
    admin = Visit(browser, portal.url, viewport=size, color_scheme=scheme).log_in("admin", ADMIN_PASSWORD)
    for name, path in OF_ADMINS.items():
        admin.page.goto(path.format(id=engine_id), wait_until="networkidle" if path.startswith("/admin") else "load")
        if name == "api-docs":
            admin.page.wait_for_selector(".opblock")  # a script draws it
        admin.page.screenshot(path=folder / f"{name}-{kind}.png", full_page=True)
    admin.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
