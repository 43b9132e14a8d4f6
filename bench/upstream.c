/* A stand-in for vLLM that costs next to nothing: it answers in vLLM's shapes, keeps exact counters, and does no work.
 *
 *   upstream --port 9001 --model bench
 *
 * GET  /health /v1/models /metrics      POST /tokenize /v1/completions /v1/chat/completions
 *
 * Of a completion request `max_tokens` is the number of tokens and `seed` the milliseconds between two chunks (0: as
 * fast as the client reads); streams of one pace keep step, as in vLLM's batch. Each prompt counts 10 tokens, each
 * streamed chunk is one token. A chunk's text is `@<ns> <n>`: the CLOCK_MONOTONIC time at which it was written, from
 * which the load generator tells how long the chunk was under way, and the token's number. The answer's id is made of
 * the request's `user`, if it has one: the same request then gets the same answer, time stamps apart.
 *
 * One thread, one epoll. A client that hangs up, or that half-closes, aborts its request: the counters stop there. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PROMPT_TOKENS = 10, DEFAULT_MAX_TOKENS = 16, MAX_INPUT = 16 << 20, READ_AHEAD = 16384 };

struct conn {
    int fd, closing;
    char *in, *out; /* received and not yet handled; written and not yet taken by the kernel */
    size_t in_len, in_size, out_len, out_sent, out_size;
    /* The stream under way, if `streaming`. */
    int streaming, chat, include_usage, continuous_usage;
    long tokens, max_tokens;
    int64_t delay, next; /* ns */
    char id[33];
    struct conn *before, *after; /* neighbours among the live streams */
};

static const char *model = "bench";
static long created;
static int poller;
static struct conn *live;        /* all streams under way */
static int64_t due = INT64_MAX;  /* no stream has anything to do before this time */
static uint64_t ids, prompt_tokens, generation_tokens, succeeded, running;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *sized(void *old, size_t size) {
    void *p = realloc(old, size);
    if (!p) abort();
    return p;
}

static void watch(struct conn *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

/* Sends at once what the kernel takes and keeps the rest. A dead peer only marks the connection. */
static void put(struct conn *c, const char *data, size_t n) {
    if (!c->out_len) {
        ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
        if (sent == (ssize_t)n) return;
        if (sent < 0 && errno != EAGAIN) { c->closing = 1; return; }
        if (sent > 0) data += sent, n -= sent;
        watch(c, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
    }
    if (c->out_len + n > c->out_size) c->out = sized(c->out, c->out_size = 2 * (c->out_len + n));
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
}

static void flush(struct conn *c) {
    ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) { c->closing = 1; return; }
    if (sent > 0) c->out_sent += sent;
    if (c->out_sent < c->out_len) return;
    c->out_len = c->out_sent = 0;
    watch(c, EPOLLIN | EPOLLRDHUP);
    due = 0; /* its stream may go on */
}

static void stream_begins(struct conn *c) {
    c->streaming = 1;
    c->before = NULL;
    c->after = live;
    if (live) live->before = c;
    live = c;
    running++;
}

static void stream_ends(struct conn *c) {
    c->streaming = 0;
    if (c->before) c->before->after = c->after; else live = c->after;
    if (c->after) c->after->before = c->before;
    running--;
}

static void hang_up(struct conn *c) {
    if (c->streaming) stream_ends(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* ---- answers ---- */

/* The server and date lines are there because vLLM sends such lines and a gateway pays for reading them. */
#define HEAD "HTTP/1.1 %s\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: %s\r\n"
#define USAGE "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%ld,\"completion_tokens\":%ld"

static void respond(struct conn *c, const char *status, const char *type, const char *body) {
    char answer[8192];
    int n = snprintf(answer, sizeof answer, HEAD "content-length: %zu\r\n\r\n%s", status, type, strlen(body), body);
    put(c, answer, n);
}

static void refuse(struct conn *c, const char *status, const char *kind, const char *param, const char *message) {
    char body[1024];
    snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":\"%s\",\"code\":%d}}",
             message, kind, param, atoi(status));
    respond(c, status, "application/json", body);
}

static void list_models(struct conn *c) {
    char body[1024];
    snprintf(body, sizeof body,
             "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":%ld,\"owned_by\":\"vllm\","
             "\"root\":\"%s\",\"parent\":null,\"max_model_len\":32768,\"permission\":[]}]}", model, created, model);
    respond(c, "200 OK", "application/json", body);
}

static void list_metrics(struct conn *c) {
    char body[4096];
    snprintf(body, sizeof body,
             "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
             "# TYPE vllm:num_requests_running gauge\n"
             "vllm:num_requests_running{engine=\"0\",model_name=\"%s\"} %lu.0\n"
             "# HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n"
             "# TYPE vllm:num_requests_waiting gauge\n"
             "vllm:num_requests_waiting{engine=\"0\",model_name=\"%s\"} 0.0\n"
             "# HELP vllm:prompt_tokens_total Number of prefill tokens processed.\n"
             "# TYPE vllm:prompt_tokens_total counter\n"
             "vllm:prompt_tokens_total{engine=\"0\",model_name=\"%s\"} %lu.0\n"
             "# HELP vllm:generation_tokens_total Number of generation tokens processed.\n"
             "# TYPE vllm:generation_tokens_total counter\n"
             "vllm:generation_tokens_total{engine=\"0\",model_name=\"%s\"} %lu.0\n"
             "# HELP vllm:request_success_total Count of successfully processed requests.\n"
             "# TYPE vllm:request_success_total counter\n"
             "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"%s\"} 0.0\n"
             "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"%s\"} %lu.0\n",
             model, running, model, model, prompt_tokens, model, generation_tokens, model, model, succeeded);
    respond(c, "200 OK", "text/plain; version=0.0.4; charset=utf-8", body);
}

static void complete(struct conn *c) {
    char body[2048], choice[512];
    if (c->chat)
        snprintf(choice, sizeof choice,
                 "\"message\":{\"role\":\"assistant\",\"content\":\"@%ld\",\"refusal\":null,\"annotations\":null,"
                 "\"audio\":null,\"function_call\":null,\"reasoning\":null}", (long)now_ns());
    else
        snprintf(choice, sizeof choice, "\"text\":\"@%ld\"", (long)now_ns());
    snprintf(body, sizeof body,
             "{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%ld,\"model\":\"%s\",\"choices\":[{\"index\":0,%s,"
             "\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":null}],"
             "\"service_tier\":null,\"system_fingerprint\":null,"
             USAGE ",\"prompt_tokens_details\":null,\"completion_tokens_details\":null},\"prompt_logprobs\":null}",
             c->chat ? "chatcmpl" : "cmpl", c->id, c->chat ? "chat.completion" : "text_completion", created, model,
             choice, PROMPT_TOKENS, PROMPT_TOKENS + c->max_tokens, c->max_tokens);
    prompt_tokens += PROMPT_TOKENS;
    generation_tokens += c->max_tokens;
    succeeded++;
    respond(c, "200 OK", "application/json", body);
}

/* Writes one server-sent event as one HTTP chunk, as uvicorn does; returns the bytes written. */
static int event(struct conn *c, char *to, const char *choices, int with_usage) {
    char text[1536];
    int n = sprintf(text,
                    "data: {\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%ld,\"model\":\"%s\",\"choices\":[%s]",
                    c->chat ? "chatcmpl" : "cmpl", c->id, c->chat ? "chat.completion.chunk" : "text_completion",
                    created, model, choices);
    if (with_usage) n += sprintf(text + n, "," USAGE "}", PROMPT_TOKENS, PROMPT_TOKENS + c->tokens, c->tokens);
    n += sprintf(text + n, "}\n\n");
    int size = sprintf(to, "%x\r\n", n);
    memcpy(to + size, text, n);
    memcpy(to + size + n, "\r\n", 2);
    return size + n + 2;
}

/* Sends the next token; with the first go the head and the role, with the last the usage and [DONE]. */
static void next_token(struct conn *c) {
    static const char last[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    char buf[8192], choice[256];
    int n = 0;
    if (!c->tokens) {
        n += sprintf(buf, HEAD "transfer-encoding: chunked\r\n\r\n", "200 OK", "text/event-stream; charset=utf-8");
        if (c->chat)
            n += event(c, buf + n, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                       "\"finish_reason\":null}", c->continuous_usage);
    }
    c->tokens++;
    generation_tokens++;
    const char *reason = c->tokens == c->max_tokens ? "\"length\"" : "null";
    sprintf(choice, c->chat ? "{\"index\":0,\"delta\":{\"content\":\"@%ld %ld\"},\"logprobs\":null,\"finish_reason\":%s,"
                              "\"stop_reason\":null,\"token_ids\":null}"
                            : "{\"index\":0,\"text\":\"@%ld %ld\",\"logprobs\":null,\"finish_reason\":%s,"
                              "\"stop_reason\":null,\"token_ids\":null}", (long)now_ns(), c->tokens, reason);
    n += event(c, buf + n, choice, c->continuous_usage);
    if (c->tokens == c->max_tokens) {
        if (c->include_usage) n += event(c, buf + n, "", 1);
        memcpy(buf + n, last, sizeof last - 1);
        n += sizeof last - 1;
        succeeded++;
        stream_ends(c);
    }
    put(c, buf, n);
}

/* ---- requests ---- */

/* The value of a key, wherever in the body it is: enough for bodies that we or a gateway made. NULL: not there. */
static const char *field(const char *body, const char *quoted_key) {
    for (const char *p = body; (p = strstr(p, quoted_key));) {
        p += strlen(quoted_key);
        p += strspn(p, " \t\r\n");
        if (*p != ':') continue; /* it was a value */
        p++;
        return p + strspn(p, " \t\r\n");
    }
    return NULL;
}

static int is_true(const char *value) { return value && *value == 't'; }

/* Multiples of the delay, the same for all: each step of vLLM gives every running request a token. */
static int64_t step_after(int64_t now, int64_t delay) { return delay ? (now / delay + 1) * delay : now; }

static void start_completion(struct conn *c, const char *body, int chat) {
    const char *value = field(body, "\"model\"");
    size_t n = strlen(model);
    if (value && *value == '"' && (strncmp(value + 1, model, n) || value[n + 1] != '"')) {
        refuse(c, "404 Not Found", "NotFoundError", "model", "The model does not exist.");
        return;
    }
    if (!(value = field(body, "\"max_completion_tokens\""))) value = field(body, "\"max_tokens\"");
    c->max_tokens = value && *value != 'n' ? atol(value) : DEFAULT_MAX_TOKENS;
    if (c->max_tokens < 1) {
        refuse(c, "400 Bad Request", "BadRequestError", "max_tokens", "max_tokens must be at least 1.");
        return;
    }
    c->chat = chat;
    value = field(body, "\"user\"");
    n = value && *value == '"' ? strspn(value + 1, "abcdefghijklmnopqrstuvwxyz0123456789") : 0;
    if (n) snprintf(c->id, sizeof c->id, "%.*s", (int)n, value + 1);
    else snprintf(c->id, sizeof c->id, "%016lx", ++ids);
    if (!is_true(field(body, "\"stream\""))) {
        complete(c);
        return;
    }
    value = field(body, "\"seed\"");
    c->delay = value ? atol(value) * 1000000 : 0;
    c->include_usage = is_true(field(body, "\"include_usage\""));
    c->continuous_usage = c->include_usage && is_true(field(body, "\"continuous_usage_stats\""));
    c->tokens = 0;
    prompt_tokens += PROMPT_TOKENS;
    stream_begins(c);
    next_token(c);
    c->next = step_after(now_ns(), c->delay);
    if (c->next < due) due = c->next;
}

static int asks(const char *request, const char *method_and_path) {
    size_t n = strlen(method_and_path);
    return !strncmp(request, method_and_path, n) && (request[n] == ' ' || request[n] == '?');
}

static void answer(struct conn *c, const char *request, const char *body) {
    if (asks(request, "POST /v1/chat/completions")) start_completion(c, body, 1);
    else if (asks(request, "POST /v1/completions")) start_completion(c, body, 0);
    else if (asks(request, "POST /tokenize"))
        respond(c, "200 OK", "application/json",
                "{\"count\":10,\"max_model_len\":32768,\"tokens\":[1,2,3,4,5,6,7,8,9,10],\"token_strs\":null}");
    else if (asks(request, "GET /health")) respond(c, "200 OK", "text/plain", "");
    else if (asks(request, "GET /v1/models")) list_models(c);
    else if (asks(request, "GET /metrics")) list_metrics(c);
    else respond(c, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}");
}

/* Answers every request that has arrived whole, up to one that starts a stream. */
static void handle(struct conn *c) {
    while (c->in_len && !c->streaming && !c->closing) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = end + 4 - c->in, length = 0;
        end[2] = 0; /* the head is a string now, its last line ended */
        for (char *line = strstr(c->in, "\r\n"); line; line = strstr(line, "\r\n")) {
            line += 2;
            if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
            if (!strncasecmp(line, "transfer-encoding:", 18)) {
                refuse(c, "411 Length Required", "BadRequestError", "body", "Send a Content-Length.");
                c->closing = 1;
                return;
            }
        }
        end[2] = '\r';
        if (c->in_len < head + length) return;
        char *body = c->in + head, beyond = body[length];
        body[length] = 0;
        answer(c, c->in, body);
        body[length] = beyond;
        c->in_len -= head + length;
        memmove(c->in, body + length, c->in_len);
    }
}

static void receive(struct conn *c) {
    if (c->in_len > MAX_INPUT) { c->closing = 1; return; }
    if (c->in_size - c->in_len < READ_AHEAD) c->in = sized(c->in, (c->in_size = 2 * c->in_size + READ_AHEAD) + 1);
    ssize_t n = recv(c->fd, c->in + c->in_len, c->in_size - c->in_len, 0);
    if (!n || (n < 0 && errno != EAGAIN)) { c->closing = 1; return; }
    if (n < 0) return;
    c->in_len += n;
    handle(c);
}

/* One token for each stream that is due and whose client has read what it got. */
static void tick(int64_t now) {
    due = INT64_MAX;
    for (struct conn *c = live, *after; c; c = after) {
        after = c->after;
        if (c->out_len) continue;
        if (c->next <= now) {
            next_token(c);
            c->next = step_after(now, c->delay);
        }
        if (!c->streaming) handle(c);
        if (c->closing) hang_up(c);
        else if (c->streaming && !c->out_len && c->next < due) due = c->next;
    }
}

static void welcome(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct conn *c = sized(NULL, sizeof *c);
        *c = (struct conn){.fd = fd};
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

/* Rounded up, so that the time has come when the wait is over. */
static int milliseconds_to(int64_t time) {
    if (time == INT64_MAX) return -1;
    int64_t wait = time - now_ns();
    return wait <= 0 ? 0 : (int)((wait + 999999) / 1000000);
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) { perror("upstream: listen"); exit(1); }
    return fd;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"port", required_argument, 0, 'p'}, {"model", required_argument, 0, 'm'}, {0}};
    int port = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 'p') port = atoi(optarg);
        else if (o == 'm' && strlen(optarg) <= 128) model = optarg;
        else return 2;
    }
    if (!port) { fprintf(stderr, "usage: upstream --port N [--model NAME]\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    created = time(NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port);
    struct epoll_event arrival = {.events = EPOLLIN, .data.ptr = NULL}, ready[512];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &arrival);
    for (;;) {
        int n = epoll_wait(poller, ready, 512, milliseconds_to(due));
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (!c) { welcome(listener); continue; }
            if (ready[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c->closing = 1;
            if (!c->closing && ready[i].events & EPOLLOUT) flush(c);
            if (!c->closing && ready[i].events & EPOLLIN) receive(c);
            if (c->closing) hang_up(c);
        }
        int64_t now = now_ns();
        if (due <= now) tick(now);
    }
}
