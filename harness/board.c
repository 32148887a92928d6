/* The shared page of a launch. */
#include "board.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

tb_status tb_board_create(const char *path, int ranks, tb_board **out)
{
    *out = NULL;
    size_t bytes = sizeof(tb_board) + (size_t)ranks * sizeof(tb_board_slot);
    int fd = -1;
    if (path) {
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0) {
            tb_status st = TB_FAIL(TB_ERR_IO, "%s: cannot create: %s", path, strerror(errno));
            if (fd >= 0) close(fd);
            return st;
        }
    }
    void *map =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, path ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS, fd, 0);
    if (fd >= 0) close(fd);
    if (map == MAP_FAILED)
        return TB_FAIL(TB_ERR_OOM, "board: cannot map %zu bytes: %s", bytes, strerror(errno));
    tb_board *board = map;
    board->ranks = ranks;
    board->bytes = bytes;
    for (int r = 0; r < ranks; r++) board->slots[r].step = -1;
    *out = board;
    return TB_OK;
}

tb_status tb_board_open(const char *path, tb_board **out)
{
    *out = NULL;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) < 0 || info.st_size < (off_t)sizeof(tb_board)) {
        tb_status st =
            TB_FAIL(TB_ERR_IO, "%s: not a board: %s", path, fd < 0 ? strerror(errno) : "too short");
        if (fd >= 0) close(fd);
        return st;
    }
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return TB_FAIL(TB_ERR_IO, "%s: cannot map: %s", path, strerror(errno));
    *out = map;
    return TB_OK;
}

void tb_board_close(tb_board *board)
{
    if (board) munmap(board, board->bytes);
}

void tb_board_describe(const tb_board_slot *slot, char *out, size_t bytes)
{
    if (!slot->phase[0]) snprintf(out, bytes, "start-up");
    else if (slot->step < 0) snprintf(out, bytes, "%.48s", slot->phase);
    else snprintf(out, bytes, "step %lld, %.48s", (long long)slot->step, slot->phase);
}
