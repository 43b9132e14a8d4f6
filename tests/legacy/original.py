"""Files as the original wrote them, made anew for each test."""

import json
import sqlite3
import uuid
from pathlib import Path

import bcrypt

USERS = """CREATE TABLE users (id INTEGER PRIMARY KEY, username VARCHAR UNIQUE, hashed_password VARCHAR,
    disabled BOOLEAN, role VARCHAR, gen_token_limit INTEGER, prompt_token_limit INTEGER, prompt_token_number INTEGER,
    gen_token_number INTEGER, timestamp DATETIME, collection_names VARCHAR)"""
ENGINES = """CREATE TABLE vllm_engines (id INTEGER PRIMARY KEY, engine_name VARCHAR, container_id VARCHAR,
    model_name VARCHAR, quantized BOOLEAN, timestamp DATETIME, max_model_length INTEGER, seed INTEGER,
    inference_end_point VARCHAR, user_id INTEGER)"""
CONVERSATIONS = """CREATE TABLE conversations (id INTEGER PRIMARY KEY, user_id INTEGER, conversation_number INTEGER,
    timestamp DATETIME, conversation_name VARCHAR, conversation_id VARCHAR)"""
MESSAGES = "CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id TEXT, message TEXT)"
WHEN = "2024-03-01 12:30:00.123456"


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def message(kind: str, text: object) -> str:
    """As LangChain's SQLChatMessageHistory writes one."""
    data = {"content": text, "additional_kwargs": {}, "type": kind, "example": False}
    return json.dumps({"type": kind, "data": data})


class Original:
    """`chat_bot_db.db` and `memory.db` in a folder. Each `add_…` gives the new row's id."""

    def __init__(self, folder: Path, *tables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.users, self.memory = folder / "chat_bot_db.db", folder / "memory.db"
        self.run(self.users, *(tables or (USERS, ENGINES, CONVERSATIONS)))
        self.run(self.memory, MESSAGES)

    def run(self, file: Path, *statements: str) -> None:
        database = sqlite3.connect(file)
        with database:
            for statement in statements:
                database.execute(statement)
        database.close()

    def insert(self, table: str, **columns: object) -> int:
        file = self.memory if table == "message_store" else self.users
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        database = sqlite3.connect(file)
        with database:
            rowid = database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", [*columns.values()]).lastrowid  # noqa: S608
        database.close()
        assert rowid is not None
        return rowid

    def add_user(self, username: object, clear: str = "correct horse", **columns: object) -> int:
        given = {"hashed_password": hashed(clear), "disabled": 0, "role": "User", "gen_token_limit": 1000}
        given |= {"prompt_token_limit": 10000, "prompt_token_number": 0, "gen_token_number": 0, "timestamp": WHEN}
        return self.insert("users", username=username, **{**given, **columns})

    def add_conversation(self, user_id: object, number: object, *said: tuple[str, str], **columns: object) -> str:
        """`said` are ("human" | "ai" | "system", text); gives the conversation's id."""
        given = {"timestamp": WHEN, "conversation_name": f"Talk {number}", "conversation_id": str(uuid.uuid4())}
        given |= columns
        self.insert("conversations", user_id=user_id, conversation_number=number, **given)
        self.say(given["conversation_id"], *said)
        return given["conversation_id"]

    def say(self, conversation_id: object, *said: tuple[str, object]) -> None:
        database = sqlite3.connect(self.memory)
        with database:
            database.executemany(
                "INSERT INTO message_store (session_id, message) VALUES (?, ?)",
                [(conversation_id, message(kind, text)) for kind, text in said],
            )
        database.close()
