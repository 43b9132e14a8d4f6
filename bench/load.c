/* A closed-loop load generator: N connections, each with one request under way, the next once the last is answered.
 *
 *   load --port 8086 --connections 64 --seconds 2 --stream --max-tokens 64 --delay-ms 20 --keys FILE --model NAME
 *
 * Each request takes the next of FILE's keys, one a line. --requests N asks no more than that, whatever the time.
 * --compare names each connection in its requests, so that upstream.c gives each of them a text of its own. An answer
 * that differs from the one before on its connection, time stamps apart, is then an error, and `bodies` in the output
 * stands for all answers: equal for two loads with equal answers, connection by connection.
 *
 * It talks to 127.0.0.1 and expects the texts of upstream.c: `@<ns>`, the CLOCK_MONOTONIC time of writing. What arrives
 * in the warm-up counts in the totals but in no percentile; the connections begin one after another during the warm-up.
 * When the time is over nothing new is asked, and what is under way is read to its end, so that the totals can be
 * compared with the counters of both sides. Prints one JSON object. Exits 0 also when there were errors: the caller
 * looks at them. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
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

#define NAME "connection%06d"
enum { NAME_BYTES = 16, MAX_HEAD = 4096 };

/* What can go wrong with a request, and the names of that in the output. */
enum error { CONNECT, CLOSED, STATUS, FRAMING, FAILED_STREAM, NO_DONE, LOST_CHUNKS, USAGE, CHANGED, TIMEOUT, ERRORS };
static const char *const error_names[ERRORS] = {"connect", "closed", "status", "framing", "failed_stream", "no_done",
                                                "lost_chunks", "usage", "changed", "timeout"};

enum state { IDLE, HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

struct conn {
    int fd;
    enum state state;
    char *request;
    size_t request_len, sent;
    int64_t started;          /* ns */
    int status, first_byte, close_after;
    uint64_t left;            /* bytes of the body, or of its chunk, still to come */
    char head[8192], line[8192]; /* a line of the body: an event of a stream, or all of another answer */
    size_t head_len, line_len;
    long chunks;
    int done, usage, failed;
    uint64_t hash, first_hash; /* of the body under way, and of the connection's first; 0: none yet */
    int in_stamp;
};

struct samples { int64_t *ns; size_t n, size; };

static struct {
    int port, connections, stream, max_tokens, delay_ms, body_bytes, include_usage, compare;
    long requests;
    double seconds, warmup;
    const char *path, *model;
} ask = {.connections = 1, .requests = LONG_MAX, .max_tokens = 64, .body_bytes = 600, .seconds = 1, .warmup = 0.3,
         .path = "/v1/chat/completions", .model = "bench"};

static int poller;
static struct conn *conns;
static char **keys, *body, *name_in_body; /* where in the body a connection's name goes; NULL: nowhere */
static long key_count, asked;
static int body_len;
static int64_t measured_from, measured_to; /* the window whose samples count */
static struct samples latencies, first_bytes, chunk_delays;
static long answered, answered_in_window, chunks, chunks_in_window, errors[ERRORS], reconnects;
static uint64_t bytes;
static char first_error[1024];
static int unfinished; /* requests under way */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* FNV-1a, a byte more. */
static const uint64_t FNV_START = 0xcbf29ce484222325;
static uint64_t hashed(uint64_t hash, unsigned char byte) { return (hash ^ byte) * 0x100000001b3; }

static int in_window(int64_t time) { return time >= measured_from && time < measured_to; }

static void add(struct samples *s, int64_t ns) {
    if (s->n == s->size) s->ns = realloc(s->ns, (s->size = s->size ? 2 * s->size : 1 << 16) * sizeof *s->ns);
    if (!s->ns) abort();
    s->ns[s->n++] = ns;
}

static void count_error(enum error kind, const char *text, size_t n) {
    errors[kind]++;
    if (!first_error[0]) snprintf(first_error, sizeof first_error, "%s: %.*s", error_names[kind], (int)n, text);
}

/* ---- one request ---- */

static void watch(struct conn *c, int op, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poller, op, c->fd, &e);
}

static void disconnect(struct conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static int connected(struct conn *c) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(ask.port)};
    int on = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (c->fd >= 0) return 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (void *)&a, sizeof a)) {
        count_error(CONNECT, strerror(errno), 99);
        disconnect(c);
        return 0;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    return 1;
}

/* A failed send shows as a failed read soon after. */
static void send_rest(struct conn *c) {
    int had_to_wait = c->sent > 0;
    ssize_t n = send(c->fd, c->request + c->sent, c->request_len - c->sent, MSG_NOSIGNAL);
    if (n > 0) c->sent += n;
    if (c->sent < c->request_len) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    else if (had_to_wait) watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void compose_request(struct conn *c) {
    int n = sprintf(c->request,
                    "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
                    "Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: bench\r\n"
                    "Content-Length: %d\r\n\r\n",
                    ask.path, ask.port, keys[asked++ % key_count], body_len);
    memcpy(c->request + n, body, body_len);
    if (name_in_body) {
        char name[NAME_BYTES + 1];
        sprintf(name, NAME, (int)(c - conns));
        memcpy(c->request + n + (name_in_body - body), name, NAME_BYTES);
    }
    c->request_len = n + body_len;
}

static void start(struct conn *c) {
    if (asked >= ask.requests || !connected(c)) return;
    compose_request(c);
    c->state = HEAD;
    c->sent = c->head_len = c->line_len = c->left = 0;
    c->status = c->first_byte = c->close_after = c->chunks = c->done = c->usage = c->failed = 0;
    c->hash = FNV_START;
    c->in_stamp = 0;
    c->started = now_ns();
    unfinished++;
    send_rest(c);
}

/* A connection that could not be opened stays idle: the errors say so. */
static void end(struct conn *c, int64_t now) {
    c->state = IDLE;
    unfinished--;
    if (c->close_after) {
        disconnect(c);
        reconnects++;
    }
    if (now < measured_to) start(c);
}

static void fail(struct conn *c, enum error kind, const char *text, size_t n, int64_t now) {
    count_error(kind, text, n);
    c->close_after = 1;
    end(c, now);
}

static void finish(struct conn *c, size_t bytes_beyond, int64_t now) {
    if (bytes_beyond) {
        fail(c, FRAMING, "bytes after the end of the answer", 99, now);
        return;
    }
    if (c->status != 200) {
        count_error(STATUS, c->line_len ? c->line : c->head, c->line_len ? c->line_len : 200);
        end(c, now);
        return;
    }
    answered++;
    if (in_window(now)) {
        answered_in_window++;
        add(&latencies, now - c->started);
    }
    if (!ask.stream)
        c->usage = memmem(c->line, c->line_len, "\"completion_tokens\"", 19) != NULL;
    if (c->usage != (!ask.stream || ask.include_usage))
        count_error(USAGE, c->usage ? "not asked for, but sent" : "asked for, but not sent", 99);
    if (ask.stream && !c->done) count_error(NO_DONE, "no data: [DONE]", 99);
    if (!c->first_hash) c->first_hash = c->hash;
    else if (ask.compare && c->hash != c->first_hash) count_error(CHANGED, "not the answer that it was before", 99);
    if (ask.stream && !c->failed && c->chunks != ask.max_tokens) count_error(LOST_CHUNKS, "not one chunk a token", 99);
    end(c, now);
}

/* One line of a stream, its end cut off. */
static void read_event(struct conn *c, int64_t now) {
    const char *line = c->line;
    c->line[c->line_len] = 0;
    if (strncmp(line, "data: ", 6)) return; /* blank, or a comment that keeps the line open */
    if (!strcmp(line + 6, "[DONE]")) c->done = 1;
    if (!strncmp(line + 6, "{\"error\"", 8)) {
        c->failed = 1;
        count_error(FAILED_STREAM, line, c->line_len);
    }
    if (strstr(line, "\"usage\"")) c->usage = 1;
    const char *stamp = strstr(line, "\"@");
    if (!stamp) return;
    c->chunks++;
    chunks++;
    if (!in_window(now)) return;
    chunks_in_window++;
    add(&chunk_delays, now - atoll(stamp + 2));
}

/* All bytes but the digits of the time stamps. */
static void hash_body(struct conn *c, const char *data, size_t n) {
    for (; n; n--, data++) {
        if (c->in_stamp && *data >= '0' && *data <= '9') continue;
        c->in_stamp = *data == '@';
        c->hash = hashed(c->hash, *data);
    }
}

static void read_body(struct conn *c, const char *data, size_t n, int64_t now) {
    if (ask.compare) hash_body(c, data, n);
    if (!c->first_byte++ && in_window(now)) add(&first_bytes, now - c->started);
    while (n) {
        const char *newline = ask.stream ? memchr(data, '\n', n) : NULL;
        size_t part = newline ? (size_t)(newline - data) : n, room = sizeof c->line - 1 - c->line_len;
        memcpy(c->line + c->line_len, data, part < room ? part : room);
        c->line_len += part < room ? part : room;
        if (!newline) return;
        if (c->status == 200) {
            read_event(c, now);
            c->line_len = 0;
        }
        data += part + 1;
        n -= part + 1;
    }
}

/* Reads the head once it is whole: status, framing, and whether the connection stays. */
static void read_head(struct conn *c) {
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->status = atoi(c->head + strlen("HTTP/1.1 "));
    c->close_after = strcasestr(c->head, "\r\nconnection: close") != NULL;
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) c->state = CHUNK_SIZE;
    else if (length) {
        c->state = SIZED;
        c->left = strtoull(length + strlen("\r\ncontent-length:"), NULL, 10);
    }
}

static int hex(char ch) {
    if (ch >= '0' && ch <= '9') return ch - '0';
    if ((ch | 32) >= 'a' && (ch | 32) <= 'f') return (ch | 32) - 'a' + 10;
    return -1;
}

/* Takes what arrived through the states of an answer. We do not pipeline, so nothing may follow its end. */
static void read_answer(struct conn *c, const char *data, size_t n, int64_t now) {
    const char *const until = data + n;
    while (data < until) {
        size_t here = until - data, part = here < c->left ? here : c->left;
        switch (c->state) {
        case IDLE:
            return;
        case HEAD: {
            size_t before = c->head_len, room = sizeof c->head - 1 - before;
            memcpy(c->head + before, data, here < room ? here : room);
            c->head_len += here < room ? here : room;
            c->head[c->head_len] = 0;
            char *last = strstr(c->head, "\r\n\r\n");
            if (!last && c->head_len < sizeof c->head - 1) return;
            if (last) {
                last[2] = 0;
                read_head(c);
            }
            if (c->state == HEAD) { fail(c, FRAMING, c->head, 200, now); return; }
            data += last + 4 - c->head - before;
            if (c->state == SIZED && !c->left) { finish(c, until - data, now); return; }
            break;
        }
        case SIZED:
            read_body(c, data, part, now);
            data += part;
            c->left -= part;
            if (!c->left) { finish(c, until - data, now); return; }
            break;
        case CHUNK_SIZE:
            if (*data == '\n') c->state = c->left ? CHUNK_DATA : TRAILER;
            else if (hex(*data) >= 0) c->left = 16 * c->left + hex(*data);
            else if (*data != '\r') { fail(c, FRAMING, data, here, now); return; }
            data++;
            break;
        case CHUNK_DATA:
            read_body(c, data, part, now);
            data += part;
            c->left -= part;
            if (!c->left) c->state = CHUNK_END;
            break;
        case CHUNK_END:
            if (*data++ == '\n') c->state = CHUNK_SIZE;
            break;
        case TRAILER:
            if (*data++ == '\n') { finish(c, until - data, now); return; }
            break;
        }
    }
}

static void receive(struct conn *c) {
    static char buf[1 << 18];
    ssize_t n = recv(c->fd, buf, sizeof buf, 0);
    int64_t now = now_ns();
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0) {
        bytes += n;
        read_answer(c, buf, n, now);
        return;
    }
    if (c->state == IDLE) disconnect(c); /* the other side ends a connection that we no longer use */
    else fail(c, CLOSED, n ? strerror(errno) : "before the end of the answer", 99, now);
}

/* ---- the run ---- */

static void compose_body(void) {
    char options[256] = "";
    body = malloc(ask.body_bytes + 1024);
    if (ask.stream)
        sprintf(options, ",\"stream\":true%s", ask.include_usage ? ",\"stream_options\":{\"include_usage\":true}" : "");
    int chat = strstr(ask.path, "chat") != NULL;
    int n = sprintf(body, "{\"model\":\"%s\",\"max_tokens\":%d,\"seed\":%d,\"temperature\":0.7%s,", ask.model,
                    ask.max_tokens, ask.delay_ms, options);
    if (ask.compare) {
        n += sprintf(body + n, "\"user\":\"");
        name_in_body = body + n;
        n += sprintf(body + n, NAME "\",", 0);
    }
    n += sprintf(body + n, chat ? "\"messages\":[{\"role\":\"user\",\"content\":\"" : "\"prompt\":\"");
    const char *rest = chat ? "\"}]}" : "\"}";
    static const char words[] = "The quick brown fox jumps over the lazy dog. ";
    for (int i = 0; n + (int)strlen(rest) < ask.body_bytes; i++) body[n++] = words[i % (sizeof words - 1)];
    body_len = n + sprintf(body + n, "%s", rest);
}

/* Exits where there is no key. */
static void read_keys(const char *path) {
    FILE *file = fopen(path, "r");
    char line[1024];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        keys = realloc(keys, (key_count + 1) * sizeof *keys);
        keys[key_count++] = strdup(line);
    }
    if (!key_count) { perror(path); exit(2); }
    fclose(file);
}

static void run(void) {
    struct epoll_event ready[512];
    int64_t begun = now_ns(), now = begun;
    measured_from = begun + ask.warmup * 1e9;
    measured_to = measured_from + ask.seconds * 1e9;
    int64_t give_up = measured_to + 10000000000LL + 2000000LL * ask.max_tokens * ask.delay_ms * ask.stream;
    conns = calloc(ask.connections, sizeof *conns);
    for (int i = 0; i < ask.connections; i++) {
        conns[i].fd = -1;
        conns[i].request = malloc(body_len + MAX_HEAD);
    }
    for (int started = 0; now < give_up; now = now_ns()) {
        while (started < ask.connections && now >= begun + (measured_from - begun) * started / ask.connections)
            start(&conns[started++]);
        if (started == ask.connections && !unfinished) break; /* the time is over, or no connection is left */
        int n = epoll_wait(poller, ready, 512, started < ask.connections ? 1 : 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT) send_rest(c);
            if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
        }
    }
    for (; unfinished; unfinished--) count_error(TIMEOUT, "no end of the answer", 99);
    for (int i = 0; i < ask.connections; i++) disconnect(&conns[i]);
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* `"name":{"p50":..,..}` in µs; null where there is no sample. */
static void print_percentiles(const char *name, struct samples *s) {
    static const struct { const char *name; double part; } marks[] = {
        {"p50", .5}, {"p90", .9}, {"p99", .99}, {"max", 1}};
    if (s->n) qsort(s->ns, s->n, sizeof *s->ns, ascending);
    printf("\"%s\":{", name);
    for (int i = 0; i < 4; i++) {
        printf("%s\"%s\":", i ? "," : "", marks[i].name);
        if (s->n) printf("%.1f", s->ns[(size_t)(marks[i].part * (s->n - 1))] / 1e3);
        else printf("null");
    }
    printf("},");
}

static void print_json_string(const char *s) {
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') printf("\\%c", *s);
        else if ((unsigned char)*s < 32 || (unsigned char)*s > 126) printf("\\u%04x", (unsigned char)*s);
        else putchar(*s);
    }
    putchar('"');
}

static uint64_t hash_of_all(void) {
    uint64_t all = FNV_START;
    for (int i = 0; i < ask.connections; i++)
        for (int shift = 0; shift < 64; shift += 8) all = hashed(all, conns[i].first_hash >> shift);
    return all;
}

static void report(void) {
    long total = 0, cut_off = errors[CLOSED] + errors[FRAMING] + errors[TIMEOUT];
    printf("{\"requests\":%ld,\"requests_in_window\":%ld,\"chunks\":%ld,\"chunks_in_window\":%ld,\"bytes\":%lu,"
           "\"seconds\":%.3f,\"reconnects\":%ld,", answered, answered_in_window, chunks, chunks_in_window, bytes,
           ask.seconds, reconnects);
    print_percentiles("latency_us", &latencies);
    print_percentiles("first_byte_us", &first_bytes);
    print_percentiles("chunk_delay_us", &chunk_delays);
    if (ask.compare) printf("\"bodies\":\"%016lx\",", hash_of_all());
    printf("\"checks\":{\"every_stream_done\":%s,\"usage_only_if_asked\":%s},\"errors\":{",
           errors[NO_DONE] + cut_off ? "false" : "true", errors[USAGE] ? "false" : "true");
    for (int i = 0; i < ERRORS; i++) {
        printf("\"%s\":%ld,", error_names[i], errors[i]);
        total += errors[i];
    }
    printf("\"total\":%ld},\"first_error\":", total);
    if (first_error[0]) print_json_string(first_error);
    else printf("null");
    printf("}\n");
}

static int usage(void) {
    fprintf(stderr, "usage: load --port N [--path /v1/chat/completions] [--connections 1] [--seconds 1]\n"
                    "            [--warmup 0.3] [--stream] [--include-usage] [--max-tokens 64] [--delay-ms 0]\n"
                    "            [--body-bytes 600] [--model bench] [--requests N] [--compare] --keys FILE\n");
    return 2;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"port", required_argument, 0, 'p'},       {"path", required_argument, 0, 'P'},
        {"connections", required_argument, 0, 'c'}, {"seconds", required_argument, 0, 's'},
        {"warmup", required_argument, 0, 'w'},     {"stream", no_argument, 0, 'S'},
        {"include-usage", no_argument, 0, 'u'},    {"max-tokens", required_argument, 0, 't'},
        {"delay-ms", required_argument, 0, 'd'},   {"body-bytes", required_argument, 0, 'b'},
        {"keys", required_argument, 0, 'k'},       {"model", required_argument, 0, 'm'},
        {"requests", required_argument, 0, 'n'},   {"compare", no_argument, 0, 'C'},
        {0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (o) {
        case 'p': ask.port = atoi(optarg); break;
        case 'P': ask.path = optarg; break;
        case 'c': ask.connections = atoi(optarg); break;
        case 's': ask.seconds = atof(optarg); break;
        case 'w': ask.warmup = atof(optarg); break;
        case 'S': ask.stream = 1; break;
        case 'u': ask.include_usage = 1; break;
        case 't': ask.max_tokens = atoi(optarg); break;
        case 'd': ask.delay_ms = atoi(optarg); break;
        case 'b': ask.body_bytes = atoi(optarg); break;
        case 'k': read_keys(optarg); break;
        case 'n': ask.requests = atol(optarg); break;
        case 'C': ask.compare = 1; break;
        case 'm': ask.model = optarg; break;
        default: return usage();
        }
    if (!ask.port || !key_count || ask.connections < 1 || strlen(ask.model) > 128 || strlen(ask.path) > 1024)
        return usage();
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    compose_body();
    run();
    report();
    return 0;
}
