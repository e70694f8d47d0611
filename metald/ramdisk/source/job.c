/* Work that outlives the session which started it.
 *
 * The worker is a process of its own, detached from the session, and keeps its state in RUN/jobs/<job>/state. The command
 * follows that state line by line until the end; called again with the same job it follows the running worker, or reports
 * what was done, and works again only when the last try failed, or never where the job is to be tried `once`. So metald may
 * lose the connection or die at any moment and the work is still done once.
 */
#include "ramdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_SIZE 1024

void job_publish(struct job *job, const char *state)
{
    char path[600], text[STATE_SIZE];
    snprintf(path, sizeof path, "%s/state.new", job->directory);
    int size = snprintf(text, sizeof text,
                        "\"state\":\"%s\",\"phase\":\"%s\",\"bytes\":%lld,\"total\":%lld,\"seconds\":%.2f,\"retries\":%d,\"kind\":\"%s\"", state,
                        job->phase, job->done, job->total, seconds_now() - job->started, job->retries, job->kind);
    FILE *file = fopen(path, "we");
    if (!file)
        return;
    fwrite(text, 1, (size_t)size, file);
    fprintf(file, ",\"error\":\"");
    for (const char *c = job->error; *c; c++)
        fputc(*c == '"' || *c == '\\' || (unsigned char)*c < 32 ? ' ' : *c, file);
    fprintf(file, "\"");
    if (fclose(file) == 0) {
        char final[600];
        snprintf(final, sizeof final, "%s/state", job->directory);
        rename(path, final);
    }
    job->published = seconds_now();
}

int job_fail(struct job *job, const char *kind, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(job->error, sizeof job->error, format, arguments);
    va_end(arguments);
    job->kind = kind;
    return -1;
}

static void detach(void)
{
    setsid();
    signal(SIGHUP, SIG_IGN);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
}

static bool finished(const char *state)
{
    return strstr(state, "\"state\":\"done\"") != NULL;
}

/* Start the worker unless it runs or is done. Returns -1 when nothing can be started. */
static int start(struct job *job, int (*work)(struct job *job))
{
    char path[600], state[STATE_SIZE] = "";
    snprintf(path, sizeof path, "%s/lock", job->directory);
    job->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (job->lock < 0)
        return -1;
    if (flock(job->lock, LOCK_EX | LOCK_NB))
        return 0;
    snprintf(path, sizeof path, "%s/state", job->directory);
    read_text(path, state, sizeof state);
    if (finished(state) || (job->once && *state)) {
        flock(job->lock, LOCK_UN);
        return 0;
    }
    job_publish(job, "running");
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        detach();
        int wrong = work(job);
        job_publish(job, wrong ? "failed" : "done");
        _exit(wrong ? 1 : 0);
    }
    close(job->lock); /* the lock lives on in the worker; a descriptor of our own asks whether it does */
    snprintf(path, sizeof path, "%s/lock", job->directory);
    job->lock = open(path, O_RDWR | O_CLOEXEC);
    return job->lock < 0 ? -1 : 0;
}

static int follow(struct job *job)
{
    char path[600], state[STATE_SIZE], last[STATE_SIZE] = "";
    double printed = 0, began = seconds_now();
    snprintf(path, sizeof path, "%s/state", job->directory);
    for (;;) {
        bool alone = flock(job->lock, LOCK_EX | LOCK_NB) == 0; /* asked first: the state read after it is the last one */
        if (alone)
            flock(job->lock, LOCK_UN);
        *state = 0;
        read_text(path, state, sizeof state);
        if (strcmp(state, last) != 0 || seconds_now() - printed >= 1 || alone) {
            bool died = alone && strstr(state, "\"state\":\"running\"");
            printf("{%s}\n", died ? "\"state\":\"failed\",\"kind\":\"died\",\"error\":\"the worker was killed\"" : state);
            fflush(stdout);
            strcpy(last, state);
            printed = seconds_now();
        }
        if (alone || seconds_now() - began >= job->followed)
            return !alone || finished(state) ? 0 : 1;
        usleep(50000);
    }
}

/* Do the work once, and follow it to its end. Returns the exit status of the command. */
int job_run(struct job *job, int (*work)(struct job *job))
{
    job->kind = "", job->started = seconds_now();
    snprintf(job->directory, sizeof job->directory, "%s", path_below("METALD_RUN", "/run/metald", "jobs"));
    mkdir(job->directory, 0700);
    snprintf(job->directory, sizeof job->directory, "%s", path_below("METALD_RUN", "/run/metald", "jobs/%.200s", job->name));
    if ((mkdir(job->directory, 0700) && errno != EEXIST) || start(job, work)) {
        fprintf(stderr, "cannot start the job in %s: %s\n", job->directory, strerror(errno));
        return 1;
    }
    return follow(job);
}
