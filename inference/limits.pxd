cpdef bytes rate_lines(told, long long now_s)
