from inference.body cimport Body, read
from inference.sse cimport answer_usage
