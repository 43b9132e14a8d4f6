"""Takes over what the service before the portal kept in files: `manage.py import_legacy`.

    users file   users, conversations ──┐
                                        ├─> run.py ── people.py, conversations.py ──> the portal's tables
    memory file  message_store ─────────┘                     report.py

Each user and each conversation with its messages is one transaction. What has been stored is found again by name or
conversation id, so a run that was cut off is simply run again.
"""
