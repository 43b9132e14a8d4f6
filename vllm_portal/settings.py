"""Django's settings, derived from the portal's own (`vllm_portal.config`), which are the ones to change."""

from datetime import timedelta

import dj_database_url

from vllm_portal.config import get_config
from vllm_portal.log import logging_config
from vllm_portal.secret_keys import secret_key
from vllm_portal.unfold import UNFOLD  # noqa: F401 (a setting)

config = get_config()

SECRET_KEY = secret_key("django")
DEBUG = config.debug
ALLOWED_HOSTS = config.allowed_hosts
CSRF_TRUSTED_ORIGINS = config.trusted_origins
ROOT_URLCONF = "vllm_portal.urls"
ASGI_APPLICATION = "vllm_portal.asgi.application"
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "vllm_portal",
    "accounts",
    "engines",
    "inference",
    "unfold",
    "django.contrib.admin.apps.SimpleAdminConfig",  # vllm_portal.urls imports its pages: most processes have none
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "django_filters",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "accounts.middleware.arrival",
    "django.middleware.security.SecurityMiddleware",
    "vllm_portal.content_security.ContentSecurityPolicyMiddleware",
    "vllm_portal.middleware.RequestIdMiddleware",
    "vllm_portal.middleware.BodyLengthMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": dj_database_url.parse(config.database)}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["ENGINE"] = "vllm_portal.sqlite"
    # IMMEDIATE: a transaction that will write takes its turn at its start instead of failing in its middle.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=20000;",
    }
    # A file, as in production: threads and processes meet in it.
    DATABASES["default"]["TEST"] = {"NAME": str(config.data_dir / "test.sqlite3")}
else:
    DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 8, "timeout": 10}}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 8}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    "accounts.hashers.ImportedBCryptHasher",  # imported passwords, until their next login
]
PASSWORD_RESET_TIMEOUT = 7 * 24 * 3600  # of the links that admins make
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
APPEND_SLASH = False  # a redirect would turn a client's POST into a GET; each path is routed with and without
STATIC_URL = "/static/"
DATA_UPLOAD_MAX_MEMORY_SIZE = config.max_body_bytes
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_HTTPONLY = True
SECURE_REFERRER_POLICY = "same-origin"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.auth.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer", "vllm_portal.browsable.BrowsableAPI"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["vllm_portal.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "vllm_portal.v1.Page",
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.OrderingFilter",
    ],
    "EXCEPTION_HANDLER": "vllm_portal.rest.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
}

SIMPLE_JWT = {
    "ALGORITHM": "HS256",
    "SIGNING_KEY": secret_key("jwt"),
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=config.access_token_lifetime_minutes),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=config.refresh_token_lifetime_days),
    "UPDATE_LAST_LOGIN": False,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "vllm-portal",
    "DESCRIPTION": "Log in, start a vLLM engine, talk to it.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": r"(?:/api/v1)?",  # groups by what comes after it
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": False},  # it would put a link into each button
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

CELERY_BROKER_URL = config.celery_broker
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A request thread must not hang on a broker that is away: the reconciler finds the row anyway.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 120,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "global_keyprefix": "celery:",
}
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.1}
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    "reconcile-engines": {
        "task": "engines.tasks.reconcile",
        "schedule": config.reconcile_seconds,
        "options": {"expires": config.reconcile_seconds * 2},
    },
    "flush-usage": {
        "task": "inference.tasks.flush_usage",
        "schedule": config.usage_flush_seconds,
        "options": {"expires": config.usage_flush_seconds * 2},
    },
    "look-for-idle-engines": {
        "task": "inference.tasks.look_for_idle_engines",
        "schedule": 10,
        "options": {"expires": 10},
    },
    "audit-ledger": {"task": "inference.tasks.audit_ledger", "schedule": 3600, "options": {"expires": 3600}},
    "delete-old-conversations": {
        "task": "inference.tasks.delete_old_conversations",
        "schedule": 3600,
        "options": {"expires": 3600},
    },
    "refresh-statistics": {
        "task": "inference.tasks.refresh_statistics",
        "schedule": 3600,
        "options": {"expires": 3600},
    },
    "sum-up-usage": {
        "task": "inference.tasks.sum_up_usage",
        "schedule": 15,
        "options": {"expires": 15},
    },
    "delete-expired-sessions": {
        "task": "accounts.tasks.delete_expired_sessions",
        "schedule": 3600,
        "options": {"expires": 3600},
    },
    "finish-leaving": {"task": "engines.tasks.finish_leaving", "schedule": 5, "options": {"expires": 10}},
    "forget-start-keys": {
        "task": "engines.tasks.forget_start_keys",
        "schedule": 3600,
        "options": {"expires": 3600},
    },
    "delete-old-engine-logs": {
        "task": "engines.tasks.delete_old_logs",
        "schedule": 3600,
        "options": {"expires": 3600},
    },
    "correct-counters": {"task": "accounts.tasks.correct_counters", "schedule": 10, "options": {"expires": 20}},
}

LOGGING = logging_config(config.log_level)
LOGGING_CONFIG = "logging.config.dictConfig"
