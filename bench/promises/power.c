/* Writes down, in order, what a program does to the files of its SQLite store, so that power.py can tell what a disk
   may hold after a cut of the power at any point. Loaded by LD_PRELOAD; POWER_FOLDER is the folder of the files, and
   POWER_LOG where it is written down. Each record is a `struct record`, and its bytes follow. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum kind { CREATED = 1, WRITTEN, TRUNCATED, SYNCED, UNLINKED };
enum { NOT_WATCHED = 0, FOLDER = 1, MOST_FILES = 65536 };

struct record {
    uint32_t kind;
    uint32_t file;
    uint64_t offset;
    uint64_t length;
};

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static int log_file = -1;
/* The file that a descriptor is of, and the name of each file as long as it has one. */
static uint32_t file_of[MOST_FILES];
static char *name_of[MOST_FILES];
static uint32_t files = FOLDER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static ssize_t (*real_write)(int, const void *, size_t);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("POWER_LOG");
    real_write = REAL(write);
    folder = getenv("POWER_FOLDER");
    if (path != NULL && folder != NULL)
        log_file = REAL(open64)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(const void *bytes, size_t length) {
    while (length > 0) {
        ssize_t put = real_write(log_file, bytes, length);
        if (put <= 0)
            abort();
        bytes = (const char *)bytes + put;
        length -= (size_t)put;
    }
}

static void note(enum kind kind, uint32_t file, uint64_t offset, const void *bytes, uint64_t length) {
    struct record record = {kind, file, offset, length};
    put(&record, sizeof record);
    if (length > 0)
        put(bytes, length);
}

/* The store's files are kept in this folder alone; what is in shared memory is no disk's. */
static int is_watched(const char *path) {
    size_t length = folder == NULL ? 0 : strlen(folder);
    if (log_file < 0 || strncmp(path, folder, length) != 0 || path[length] != '/')
        return 0;
    return strncmp(path + length + 1, "mirrorgate.db", 13) == 0 && strstr(path, "-shm") == NULL;
}

static uint32_t known(const char *path) {
    for (uint32_t file = FOLDER + 1; file <= files; file++)
        if (name_of[file] != NULL && strcmp(name_of[file], path) == 0)
            return file;
    return NOT_WATCHED;
}

static int opened(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= MOST_FILES)
        return fd;
    pthread_mutex_lock(&order);
    file_of[fd] = NOT_WATCHED;
    if (is_watched(path)) {
        uint32_t file = known(path);
        if (file == NOT_WATCHED && files + 1 < MOST_FILES) {
            file = ++files;
            name_of[file] = strdup(path);
            note(CREATED, file, 0, path, strlen(path));
        }
        if (flags & O_TRUNC)
            note(TRUNCATED, file, 0, NULL, 0);
        file_of[fd] = file;
    } else if (log_file >= 0 && strcmp(path, folder) == 0) {
        file_of[fd] = FOLDER;
    }
    pthread_mutex_unlock(&order);
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        return opened(REAL(name)(path, flags, mode), path, flags);                                                     \
    }

OPEN(open)
OPEN(open64)

/* Does something to a descriptor, and writes down what that was, before anything else is done to a watched one. */
#define DONE(fd, call, type, good, kind, offset, bytes, length)                                                        \
    if (log_file < 0 || (fd) < 0 || (fd) >= MOST_FILES || file_of[fd] == NOT_WATCHED)                                  \
        return call;                                                                                                   \
    pthread_mutex_lock(&order);                                                                                        \
    uint64_t at = (uint64_t)(offset);                                                                                  \
    type done = call;                                                                                                  \
    if (good)                                                                                                          \
        note(kind, file_of[fd], at, bytes, length);                                                                    \
    pthread_mutex_unlock(&order);                                                                                      \
    return done

ssize_t write(int fd, const void *bytes, size_t length) {
    DONE(fd, real_write(fd, bytes, length), ssize_t, done > 0, WRITTEN, lseek64(fd, 0, SEEK_CUR), bytes, (uint64_t)done);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    DONE(fd, REAL(pwrite)(fd, bytes, length, offset), ssize_t, done > 0, WRITTEN, offset, bytes, (uint64_t)done);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    DONE(fd, REAL(pwrite64)(fd, bytes, length, offset), ssize_t, done > 0, WRITTEN, offset, bytes, (uint64_t)done);
}

int ftruncate(int fd, off_t size) {
    DONE(fd, REAL(ftruncate)(fd, size), int, done == 0, TRUNCATED, size, NULL, 0);
}

int ftruncate64(int fd, off64_t size) {
    DONE(fd, REAL(ftruncate64)(fd, size), int, done == 0, TRUNCATED, size, NULL, 0);
}

int fsync(int fd) {
    DONE(fd, REAL(fsync)(fd), int, done == 0, SYNCED, 0, NULL, 0);
}

int fdatasync(int fd) {
    DONE(fd, REAL(fdatasync)(fd), int, done == 0, SYNCED, 0, NULL, 0);
}

int close(int fd) {
    if (fd >= 0 && fd < MOST_FILES)
        file_of[fd] = NOT_WATCHED;
    return REAL(close)(fd);
}

int unlink(const char *path) {
    pthread_mutex_lock(&order);
    int done = REAL(unlink)(path);
    uint32_t file = done == 0 && is_watched(path) ? known(path) : NOT_WATCHED;
    if (file != NOT_WATCHED) {
        note(UNLINKED, file, 0, NULL, 0);
        free(name_of[file]);
        name_of[file] = NULL;
    }
    pthread_mutex_unlock(&order);
    return done;
}
