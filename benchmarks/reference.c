/*
 * The limit that servers are measured against: tcp_table(5) from a hash table, in one thread.
 *
 *     reference PORT TABLE
 *
 * TABLE has a line for each entry, "key value", both as they are on the wire (quoted). It listens on
 * 127.0.0.1 and prints the port (0 lets the system choose). Level-triggered epoll, one recv(2) and one
 * send(2) for each request. Nothing expires, nothing is counted: no server in earnest can do less.
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
#include <unistd.h>

#define MAX_LINE 30005
#define EVENTS 256

struct entry {
    char *key, *reply;
    size_t key_length, reply_length;
    struct entry *next;
};

struct peer {
    int socket;
    size_t held;
    char line[MAX_LINE];
};

static struct entry **slots;
static size_t mask;

static void die(const char *what)
{
    fprintf(stderr, "reference: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* FNV-1a */
static uint64_t hash(const char *text, size_t length)
{
    uint64_t value = 14695981039346656037u;
    for (size_t i = 0; i < length; i++)
        value = (value ^ (unsigned char)text[i]) * 1099511628211u;
    return value;
}

static void load(const char *path)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t size = 0;
    ssize_t length;

    if (file == NULL)
        die(path);
    mask = (1u << 20) - 1;
    slots = calloc(mask + 1, sizeof *slots);
    if (slots == NULL)
        die("memory");
    while ((length = getline(&line, &size, file)) > 0) {
        char *space = memchr(line, ' ', length);
        struct entry *entry = malloc(sizeof *entry);
        if (space == NULL || entry == NULL || line[length - 1] != '\n') {
            fprintf(stderr, "reference: a line is a key, a space, a value\n");
            exit(1);
        }
        entry->key_length = space - line;
        entry->key = strndup(line, entry->key_length);
        entry->reply_length = 4 + (line + length - (space + 1));
        entry->reply = malloc(entry->reply_length);
        memcpy(entry->reply, "200 ", 4);
        memcpy(entry->reply + 4, space + 1, entry->reply_length - 4);
        size_t slot = hash(entry->key, entry->key_length) & mask;
        entry->next = slots[slot];
        slots[slot] = entry;
    }
    free(line);
    fclose(file);
}

static void answer(struct peer *peer, const char *line, size_t length)
{
    static const char not_found[] = "500 not%20found\n", malformed[] = "400 malformed%20request\n";
    const char *reply = malformed;
    size_t reply_length = sizeof malformed - 1;

    if (length > 4 && memcmp(line, "get ", 4) == 0) {
        const char *key = line + 4;
        size_t key_length = length - 5;
        struct entry *entry = slots[hash(key, key_length) & mask];
        while (entry && (entry->key_length != key_length || memcmp(entry->key, key, key_length)))
            entry = entry->next;
        reply = entry ? entry->reply : not_found;
        reply_length = entry ? entry->reply_length : sizeof not_found - 1;
    }
    /* A peer has one request under way: its reply always fits. */
    if (send(peer->socket, reply, reply_length, MSG_NOSIGNAL) != (ssize_t)reply_length)
        peer->held = MAX_LINE;
}

static void receive(struct peer *peer)
{
    ssize_t got = recv(peer->socket, peer->line + peer->held, MAX_LINE - peer->held, 0);
    char *line = peer->line, *end;

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0) {
        peer->held += got;
        while (peer->held < MAX_LINE && (end = memchr(line, '\n', peer->held)) != NULL) {
            size_t length = end + 1 - line;
            answer(peer, line, length);
            if (peer->held == MAX_LINE)
                break;
            peer->held -= length;
            line += length;
        }
        if (line != peer->line && peer->held < MAX_LINE)
            memmove(peer->line, line, peer->held);
    }
    if (got <= 0 || peer->held >= MAX_LINE) {
        close(peer->socket);
        free(peer);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct rlimit files;
    int on = 1;

    if (argc != 3) {
        fprintf(stderr, "usage: reference PORT TABLE\n");
        return 2;
    }
    load(argv[2]);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_port = htons(atoi(argv[1]));
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 1024))
        die("cannot listen");
    getsockname(listening, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listening, &event);
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr != NULL) {
                receive(events[i].data.ptr);
                continue;
            }
            int accepted = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
            if (accepted < 0)
                continue;
            struct peer *peer = malloc(sizeof *peer);
            if (peer == NULL)
                die("memory");
            peer->socket = accepted;
            peer->held = 0;
            setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            event.data.ptr = peer;
            epoll_ctl(poll, EPOLL_CTL_ADD, accepted, &event);
        }
    }
}
