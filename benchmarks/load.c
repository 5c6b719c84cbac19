/*
 * The load: N connections, one request in flight on each, the next one when its reply is here.
 *
 *     load PORT CONNECTIONS SECONDS REQUESTS WARM QUESTIONS
 *
 * QUESTIONS is netstrings, a request and the reply to expect in turn. Every reply is compared; a wrong
 * one, an end of input or a second without any reply ends the run with status 1 and a line that says so.
 * WARM requests are asked first and not measured. The run ends after SECONDS or REQUESTS, whichever
 * comes first, 0 for no such limit. Prints one line of JSON: latencies are in microseconds, from the
 * send to the whole reply.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define MAX_REPLY 100100
#define SILENCE_MS 10000

/* A histogram of nanoseconds whose buckets are at most 1/64 of their value wide. */
#define FINE_BITS 6
#define FINE (1 << FINE_BITS)
#define BUCKETS ((64 - FINE_BITS) * FINE)

struct text {
    const char *bytes;
    size_t length;
};

struct question {
    struct text request, reply;
};

struct connection {
    int socket;
    size_t question, got;
    uint64_t asked;
};

static struct question *questions;
static size_t question_count;
static uint64_t histogram[BUCKETS];

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + time.tv_nsec;
}

static size_t bucket(uint64_t value)
{
    if (value < FINE)
        return value;
    int shift = 63 - __builtin_clzll(value) - FINE_BITS;
    return (size_t)(shift + 1) * FINE + (value >> shift) - FINE;
}

static double bucket_value(size_t number)
{
    if (number < FINE)
        return number;
    int shift = number / FINE - 1;
    return ((double)(FINE + number % FINE) + 0.5) * ((uint64_t)1 << shift);
}

static double percentile(uint64_t total, double share)
{
    uint64_t wanted = total * share, seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted)
            return bucket_value(i) / 1000;
    }
    return 0;
}

static struct text netstring(char **at, char *end)
{
    char *colon;
    struct text text = {NULL, strtoul(*at, &colon, 10)};
    if (colon == *at || colon >= end || *colon != ':' || text.length > MAX_REPLY
        || colon + 1 + text.length >= end || colon[1 + text.length] != ',') {
        fprintf(stderr, "load: the questions are not netstrings\n");
        exit(1);
    }
    text.bytes = colon + 1;
    *at = colon + 2 + text.length;
    return text;
}

static void read_questions(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL || fseek(file, 0, SEEK_END))
        die(path);
    size_t size = ftell(file);
    char *content = calloc(size + 1, 1), *at = content;
    questions = calloc(size / 6 + 1, sizeof *questions);
    rewind(file);
    if (content == NULL || questions == NULL || fread(content, 1, size, file) != size)
        die(path);
    fclose(file);
    while (at < content + size) {
        questions[question_count].request = netstring(&at, content + size);
        questions[question_count++].reply = netstring(&at, content + size);
    }
    if (question_count == 0) {
        fprintf(stderr, "load: no questions\n");
        exit(1);
    }
}

static void ask(struct connection *connection)
{
    struct text request = questions[connection->question].request;
    connection->got = 0;
    connection->asked = now(CLOCK_MONOTONIC);
    if (send(connection->socket, request.bytes, request.length, MSG_NOSIGNAL) != (ssize_t)request.length)
        die("cannot send");
}

static void wrong(const struct question *question, size_t from, const char *got, size_t length)
{
    fprintf(stderr, "load: wrong reply to %.*s: after %zu bytes %.*s, not %.*s\n",
            (int)question->request.length, question->request.bytes, from, (int)length, got,
            (int)question->reply.length, question->reply.bytes);
    exit(1);
}

/* Whether the whole reply is here. */
static int receive(struct connection *connection)
{
    static char buffer[MAX_REPLY + 1];
    const struct question *question = &questions[connection->question];
    ssize_t got = recv(connection->socket, buffer, sizeof buffer, 0);

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got < 0)
        die("cannot receive");
    if (got == 0) {
        fprintf(stderr, "load: the server hung up\n");
        exit(1);
    }
    if ((size_t)got > question->reply.length - connection->got
        || memcmp(buffer, question->reply.bytes + connection->got, got) != 0)
        wrong(question, connection->got, buffer, got);
    connection->got += got;
    return connection->got == question->reply.length;
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS REQUESTS WARM QUESTIONS\n");
        return 2;
    }
    size_t count = strtoul(argv[2], NULL, 10);
    uint64_t limit = strtod(argv[3], NULL) * 1e9, requests = strtoull(argv[4], NULL, 10);
    uint64_t warm = strtoull(argv[5], NULL, 10), done = 0, total = 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit files;
    int on = 1;

    if (count == 0 || (limit == 0 && requests == 0)) {
        fprintf(stderr, "load: no connections, or no limit\n");
        return 2;
    }
    read_questions(argv[6]);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_port = htons(atoi(argv[1]));
    struct connection *connections = calloc(count, sizeof *connections);
    int poll = epoll_create1(0);
    for (size_t i = 0; i < count; i++) {
        struct connection *connection = &connections[i];
        connection->socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connection->socket < 0 || connect(connection->socket, (struct sockaddr *)&address, sizeof address))
            die("cannot connect");
        setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection->question = question_count * i / count;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(poll, EPOLL_CTL_ADD, connection->socket, &event);
    }
    for (size_t i = 0; i < count; i++)
        ask(&connections[i]);

    struct epoll_event events[EVENTS];
    uint64_t began = 0, cpu = 0, time = 0;
    int measured = warm == 0, over = 0;
    if (measured) {
        began = now(CLOCK_MONOTONIC);
        cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    }
    while (!over) {
        int ready = epoll_wait(poll, events, EVENTS, SILENCE_MS);
        if (ready < 0 && errno != EINTR)
            die("epoll_wait");
        if (ready == 0) {
            fprintf(stderr, "load: no reply for %d ms\n", SILENCE_MS);
            exit(1);
        }
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!receive(connection))
                continue;
            time = now(CLOCK_MONOTONIC);
            total++;
            if (measured) {
                histogram[bucket(time - connection->asked)]++;
                done++;
                if ((requests && done >= requests) || (limit && time - began >= limit)) {
                    over = 1;
                    break;
                }
            } else if (total >= warm) {
                measured = 1;
                began = time;
                cpu = now(CLOCK_PROCESS_CPUTIME_ID);
            }
            connection->question = (connection->question + 1) % question_count;
            ask(connection);
        }
    }
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    uint64_t slowest = 0;
    for (size_t i = 0; i < BUCKETS; i++)
        if (histogram[i])
            slowest = i;
    printf("{\"requests\": %lu, \"seconds\": %.6f, \"cpu\": %.6f, \"p50\": %.1f, \"p90\": %.1f, "
           "\"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}\n",
           (unsigned long)done, (time - began) / 1e9, cpu / 1e9, percentile(done, 0.5),
           percentile(done, 0.9), percentile(done, 0.99), percentile(done, 0.999),
           bucket_value(slowest) / 1000);
    return 0;
}
