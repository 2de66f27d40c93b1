"""What a user's program holds, and a task's nested calls too: the session and the API."""
