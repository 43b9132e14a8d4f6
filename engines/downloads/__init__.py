"""Models on their way from the hub into the cache of this machine: decision 0026. No database here.

    files     which files of a repository vLLM reads [pure]
    folder    what is kept of a download on disk, and the lock that says whether it lives
    process   starting, finding and ending the process that downloads
    __main__  that process
    transfer  one file into the cache, from where it ended
    failures  what the hub, the network and the disk can do wrong

That process may be killed at any moment; the next one goes on where it was.
"""
