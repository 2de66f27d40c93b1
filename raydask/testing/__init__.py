"""Running the engine's pure cores without processes, sockets or waiting."""
