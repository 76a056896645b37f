// A browser gives no worker to a page that is opened from the disk. There, search runs in a hidden frame instead, with
// the same messages to and fro. From a server the browser's own workers are used.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      this.inner = frame.contentWindow
      const answer = (data) => this.answer(data)
      this.inner.postMessage = answer
      this.inner.importScripts = (...urls) => Promise.all(urls.map((one) => this.load(one)))
      this.load(url).then(() => {
        this.ready = true
        this.waiting.splice(0).forEach((data) => this.postMessage(data))
      })
    }
    load(url) {
      const { document } = this.inner
      return new Promise((resolve, reject) => {
        const script = document.createElement("script")
        script.src = new URL(url, location.href).href
        script.onload = resolve
        script.onerror = reject
        document.body.appendChild(script)
      })
    }
    answer(data) {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      this.onmessage?.(event)
    }
    postMessage(data) {
      if (this.ready) this.inner.dispatchEvent(new MessageEvent("message", { data }))
      else this.waiting.push(data)
    }
    terminate() {
      this.inner.frameElement.remove()
    }
  }
}
